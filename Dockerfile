# One image for every service of docker-compose.yml.
FROM python:3.11-slim-bookworm

ENV PYTHONUNBUFFERED=1 PIP_NO_CACHE_DIR=1
WORKDIR /opt/emberflow
COPY requirements.txt .
RUN pip install -r requirements.txt
COPY . .
RUN echo /opt/emberflow/include > "$(python -c 'import site; print(site.getsitepackages()[0])')/emberflow.pth" \
    && useradd --create-home --uid 10001 emberflow \
    && install -d -o emberflow /var/lib/emberflow /var/lib/sandbox
USER emberflow
CMD ["python", "-m", "emberflow.cli", "--help"]
