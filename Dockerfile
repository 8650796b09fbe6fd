# The demo, on the CPU:
#   docker build -t mmard . && docker run --rm -v mmard-runs:/home/mmard/runs mmard
# Your own files, without a network:
#   docker run --rm -it --network none -v "$PWD:/home/mmard/work" -w /home/mmard/work mmard bash
# PyTorch's build for the CPU alone is a tenth as large; ADDRESS is the one that pytorch.org gives:
#   docker build -t mmard --build-arg TORCH="torch --index-url ADDRESS" .
FROM python:3.13-slim
ARG TORCH=torch
RUN pip install --no-cache-dir $TORCH
COPY . /src
RUN pip install --no-cache-dir "/src[data,onnx]"
RUN useradd --create-home mmard && install --directory --owner mmard /home/mmard/runs
USER mmard
WORKDIR /home/mmard
CMD ["mmard", "demo"]
