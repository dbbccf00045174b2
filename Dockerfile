# One image for every service of docker-compose.yml.
FROM python:3.11-slim-bookworm

ENV PYTHONUNBUFFERED=1 PIP_NO_CACHE_DIR=1
WORKDIR /opt/emberflow
COPY requirements.txt .
RUN pip install -r requirements.txt
COPY . .
RUN pip install --no-deps --no-build-isolation --editable . \
    && useradd --create-home --uid 10001 emberflow \
    && install -d -o emberflow /var/lib/emberflow /var/lib/sandbox
USER emberflow
CMD ["python", "-m", "emberflow.cli", "--help"]
