# Three images from one file, each with no more than its part needs:
#   lite  orchestrator, Flower, metrics (neither OpenCV nor torch)
#   cpu   judges, preparation of inputs, the generator `composite`, the command line
#   gpu   the generators that need CUDA
#
# A mirror of PyPI stays out of the image and of this file:
#   docker build --secret id=pip_conf,src=$HOME/.config/pip/pip.conf --target cpu .

# Any image with Python 3.11 or newer and its venv module.
ARG BASE_IMAGE=docker.io/library/python:3.11-slim-bookworm

FROM ${BASE_IMAGE} AS tools
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore
RUN python3 -m venv /opt/inpaint-eacps
ENV PATH=/opt/inpaint-eacps/bin:$PATH
WORKDIR /src
# Packages change seldom and code often: they are installed before it is copied.
COPY pyproject.toml constraints.txt deploy/requirements.py ./

FROM tools AS wheel
COPY README.md LICENSE ./
COPY inpaint_eacps inpaint_eacps
COPY orchestrator orchestrator
COPY workers workers
COPY shared shared
RUN --mount=type=secret,id=pip_conf,target=/etc/pip.conf \
    --mount=type=cache,target=/root/.cache/pip \
    pip wheel --quiet --no-deps --wheel-dir /wheels .

FROM ${BASE_IMAGE} AS runtime
# Volumes take over the owner of the folder that they are mounted on.
RUN groupadd --gid 10001 eacps \
    && useradd --uid 10001 --gid eacps --home-dir /tmp --no-create-home --shell /usr/sbin/nologin eacps \
    && install -d -o eacps -g eacps /outputs /cache /models /flower
ENV PATH=/opt/inpaint-eacps/bin:$PATH \
    HOME=/tmp \
    PYTHONUNBUFFERED=1 \
    INPAINT_EACPS_PUBLISH__OUTPUT_DIR=/outputs \
    INPAINT_EACPS_INPUT__CACHE_DIR=/cache \
    HF_HOME=/models/huggingface \
    TRITON_CACHE_DIR=/models/triton \
    TORCHINDUCTOR_CACHE_DIR=/models/inductor
USER 10001:10001
WORKDIR /tmp
ENTRYPOINT ["inpaint-eacps"]
CMD ["--help"]

FROM tools AS lite-packages
RUN --mount=type=secret,id=pip_conf,target=/etc/pip.conf \
    --mount=type=cache,target=/root/.cache/pip \
    python requirements.py flower metrics s3 > wanted.txt && pip install --quiet -c constraints.txt -r wanted.txt
COPY --from=wheel /wheels /wheels
RUN pip install --quiet --no-deps /wheels/*.whl && pip uninstall --quiet --yes setuptools pip

FROM runtime AS lite
COPY --from=lite-packages /opt/inpaint-eacps /opt/inpaint-eacps

FROM tools AS cpu-packages
RUN --mount=type=secret,id=pip_conf,target=/etc/pip.conf \
    --mount=type=cache,target=/root/.cache/pip \
    python requirements.py cpu gemini s3 > wanted.txt && pip install --quiet -c constraints.txt -r wanted.txt
COPY --from=wheel /wheels /wheels
RUN pip install --quiet --no-deps /wheels/*.whl && pip uninstall --quiet --yes setuptools pip

FROM runtime AS cpu
COPY --from=cpu-packages /opt/inpaint-eacps /opt/inpaint-eacps

FROM tools AS gpu-packages
RUN --mount=type=secret,id=pip_conf,target=/etc/pip.conf \
    --mount=type=cache,target=/root/.cache/pip \
    python requirements.py qwen cpu s3 > wanted.txt && pip install --quiet -c constraints.txt -r wanted.txt
COPY --from=wheel /wheels /wheels
RUN pip install --quiet --no-deps /wheels/*.whl && pip uninstall --quiet --yes pip

FROM runtime AS gpu
COPY --from=gpu-packages /opt/inpaint-eacps /opt/inpaint-eacps
