"""`mmard push`, as the command line takes it."""

from typing import Annotated

import typer

from mmard.cli import console


def push(
    run: Annotated[str, typer.Argument(metavar="RUN", help="Run folder.")],
    repo: Annotated[str, typer.Argument(metavar="OWNER/NAME", help="Model repository; made where there is none.")],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show files and card, upload nothing.")] = False,
    public: Annotated[bool, typer.Option("--public", help="Make a new repository public; else private.")] = False,
) -> None:
    """Upload a run to the Hugging Face hub: card, best weights, settings, exported files; none names a folder of this machine.

    A repository that is there stays private or public as it is. The token is that of hf auth login, or HF_TOKEN.
    """
    from mmard.api.push import push as upload

    with console.out.status("uploading"):
        done = upload(run, repo, private=not public, dry_run=dry_run)
    for name, content in done.files.items():
        console.say(f"{len(content) / 1e6:9.3f} MB  {name}")
    if dry_run:
        console.say(f"README.md, the card of {repo}:")
        console.say(done.card)
        console.say("nothing was uploaded; leave out --dry-run to do it")
    else:
        console.say("uploaded: ", (done.url, "bold"))
