#!/bin/sh
# Start Prefect's worker in this folder. Where there is no checkout yet, it becomes a clone of
# THREESTAGE_REPOSITORY: a URL, or by default the checkout of compose.yaml.
set -eu
test -e .git || git clone --quiet "${THREESTAGE_REPOSITORY:-/repository}" .
prefect work-pool create local --type process || true  # after the first start it exists
prefect --no-prompt deploy --all
exec prefect worker start --pool local --with-healthcheck
