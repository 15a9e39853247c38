# Serves a finished run on CPUs:
#   docker build -t sprec .
#   docker run -p 8000:8000 -e SPREC_TOKEN -v "$PWD/demo/run:/srv/run:ro" sprec
FROM python:3.12-slim

RUN useradd --system --create-home --uid 10001 sprec
WORKDIR /opt/sprec

# Wheels of PyTorch without CUDA; those of the usual index bring gigabytes of it.
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
COPY constraints.txt ./
RUN pip install --no-cache-dir -c constraints.txt --extra-index-url "$TORCH_INDEX" torch

COPY pyproject.toml README.md LICENSE ./
COPY src ./src
RUN pip install --no-cache-dir -c constraints.txt ".[serve]"

USER sprec
WORKDIR /home/sprec
EXPOSE 8000
HEALTHCHECK --interval=30s --timeout=5s --start-period=120s \
  CMD ["python", "-c", "from urllib.request import urlopen; urlopen('http://127.0.0.1:8000/readyz', timeout=4)"]
ENTRYPOINT ["sprec", "serve", "--host", "0.0.0.0", "--port", "8000"]
CMD ["/srv/run"]
