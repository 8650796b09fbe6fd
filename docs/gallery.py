# %% [markdown]
# # A robust student, in pictures
#
# Two networks of one size learn 8×8 digits: one as usual, one distilled from a robust teacher. Then both are attacked,
# and we look at what the attack does. Everything below was computed when this page was built, in a minute of one core.
# The page is a script: it runs as it stands (`python docs/gallery.py`), and Jupyter opens it as a notebook.

# %%
import subprocess
import sys
import tempfile
import warnings
from html import escape
from pathlib import Path

import matplotlib.pyplot as plt
import torch

import mmard
from mmard.data.sources import load

warnings.filterwarnings("ignore", message="IProgress")  # no bars here
folder = tempfile.mkdtemp()
eps = 0.15
threat = mmard.Threat(eps=eps)
images = load("digits").test
x, y, _ = images.in_memory().batch(slice(None))

# %% [markdown]
# ## Train
# A teacher by adversarial training (`pgd_at`: it learns the labels of images that an attack has moved), a student of it
# by RSLAD with MMARD's contrast, and the same network trained as usual. [Words and names](start.html#words-and-names)
# says what these methods do. For your own pictures change the data, the networks and the threat, and nothing else.

# %%
usual = {
    "data": {"name": "digits", "augment": "crop"}, "normalize": "data", "threat__eps": eps, "attack__steps": 5,
    "train__batch_size": 64, "train__lr": 0.1, "averaging": {"kind": "ema", "decay": 0.95}, "validation__every": 5,
}  # fmt: skip
teacher = mmard.train(method="pgd_at", student="cnn-16-5", train__epochs=15, out=f"{folder}/teacher", **usual)
runs = {
    "trained as usual": mmard.train(
        method="standard", student="cnn-16-3", train__epochs=10, out=f"{folder}/standard", **usual
    ),
    "distilled, robust": mmard.train(
        method="mmard", student="cnn-16-3", teacher=str(teacher.path), train__epochs=15, out=f"{folder}/mmard", **usual
    ),
}
models = {name: mmard.load_model(run).eval() for name, run in runs.items()}

# %% [markdown]
# ## Attack
# Projected gradient ascent on the cross-entropy, in the L∞ ball around each image: no pixel moves by more than 0.15 of its range.

# %%
attack = mmard.Pgd(steps=20)
torch.manual_seed(0)


def attacked(model: torch.nn.Module) -> torch.Tensor:
    """Find the images in the ball that this model says the wrong thing to."""
    return attack(lambda x_adv: mmard.losses.ce(model(x_adv), y), x, threat).detach()


x_adv = {name: attacked(model) for name, model in models.items()}
with torch.no_grad():
    for name, model in models.items():
        clean, robust = ((model(images).argmax(1) == y).float().mean().item() for images in (x, x_adv[name]))
        print(f"{name:17} {clean:6.1%} of the test images right, {robust:6.1%} under attack")
    right = torch.stack([model(x).argmax(1) == y for model in models.values()]).all(0).nonzero()[:8, 0]

# %% [markdown]
# ## Look at the attacks
# A column an image, the first eight that both networks have right: the digit, what the attack made of it, and what it
# added (red: more ink, blue: less). Above a picture stands what the network says of it, in red where it is wrong. To the eye
# both attacks are a faint veil. The usual network takes it for other digits, the distilled one far less often.


# %%
def gallery(name: str) -> None:
    """Draw digits, their adversarial examples and the perturbations."""
    model, made = models[name], x_adv[name]
    figure, rows = plt.subplots(3, len(right), figsize=(len(right), 3.6), layout="constrained")
    for i, column in zip(right, rows.T, strict=True):
        with torch.no_grad():
            said = model(torch.stack([x[i], made[i]])).argmax(1).tolist()
        for axis, picture, title in zip(column[:2], (x[i], made[i]), said, strict=True):
            axis.imshow(picture[0], cmap="gray_r", vmin=0, vmax=1)
            axis.set_title(title, color="black" if title == y[i] else "crimson")
        column[2].imshow((made - x)[i, 0], cmap="RdBu_r", vmin=-eps, vmax=eps)
    for axis in rows.flat:
        axis.set(xticks=[], yticks=[])
    for axis, words in zip(rows[:, 0], ("image", "attacked", "added"), strict=True):
        axis.set_ylabel(words)
    figure.suptitle(name)
    plt.show()


for name in models:
    gallery(name)

# %% [markdown]
# ## Look at the boundaries
# Slices through the space of images: the image at the origin, to the right the direction that the attack took, upwards a
# random direction of the same length. A colour is a class that the network gives; inside the dashed diamond is the ball
# (a diamond, because both directions move every pixel by eps, and together they may not move it by more).
# To the right the usual network changes its mind early, inside the ball; upwards it rarely does. So noise is no
# test of robustness, and an attack is. Distillation has pushed the boundary outwards.


# %%
def slice_of(name: str, i: int, axis: plt.Axes, points: int = 121, reach: float = 2.5) -> None:
    """Draw a network's classes in the plane of an attack and a random direction."""
    step = (x_adv[name][i] - x[i]).sign() * eps
    beside = torch.randn(step.shape, generator=torch.Generator().manual_seed(i)).sign() * eps
    along = torch.linspace(-reach, reach, points)
    plane = x[i] + along.view(1, -1, 1, 1, 1) * step + along.view(-1, 1, 1, 1, 1) * beside
    with torch.no_grad():
        classes = models[name](plane.flatten(0, 1).clamp(0, 1)).argmax(1).view(points, points)
    axis.imshow(classes, origin="lower", extent=(-reach, reach) * 2, cmap="tab10", vmin=0, vmax=9)
    axis.plot([-1, 0, 1, 0, -1], [0, -1, 0, 1, 0], "k--", linewidth=1)
    axis.plot(0, 0, "ko", markersize=4)
    axis.set_title(f"a {int(y[i])}, {name}", fontsize="medium")


shown = right[:4].tolist()
figure, rows = plt.subplots(
    2, len(shown), figsize=(2.4 * len(shown), 5), layout="constrained", sharex=True, sharey=True
)
for row, name in zip(rows, models, strict=True):
    for axis, i in zip(row, shown, strict=True):
        slice_of(name, i, axis)
figure.supxlabel("the attack's direction, in units of eps")
figure.supylabel("a random direction")
plt.show()

# %% [markdown]
# ## The report
# Attacks by hand are for looking. For a figure that you tell others take `mmard.evaluate`: a verdict for each image,
# intervals, AutoAttack, and checks of what an attack may miss ([Evaluate](evaluation.html)). Here are 100 images and PGD-20
# alone, to be quick.

# %%
for run in runs.values():
    print(mmard.evaluate(run, "pgd-20", limit=100))

# %% [markdown]
# The same as a page to hand on, one HTML file with its tables, curves and examples ([Reports](reports.html)).


# %%
class Page:
    """A report, shown within this one."""

    def __init__(self, *paths: Path) -> None:
        self.file = paths[0] / "report.html"
        subprocess.run(
            [sys.executable, "-m", "mmard", "report", *paths, "--out", self.file], check=True, capture_output=True
        )

    def _repr_html_(self) -> str:
        return f'<iframe srcdoc="{escape(self.file.read_text())}" style="width: 100%; height: 40rem"></iframe>'


Page(*(run.path for run in runs.values()))
