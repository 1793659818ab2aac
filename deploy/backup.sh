#!/bin/sh
# Back up databases and artifacts into a new folder of FOLDER: sh backup.sh FOLDER
# Variables: those of postgres.env, PGHOST, and ARTIFACTS, MLflow's folder. Backups older than KEEP_DAYS (14) are removed.
set -eu
umask 077
backup="$1/$(date -u +%Y-%m-%dT%H-%M-%SZ)"
mkdir -p "$backup.part"

dump() {
    PGUSER="$1" PGPASSWORD="$2" pg_dump --format=custom --file="$backup.part/$3.dump" "$3"
}
dump mlflow "$MLFLOW_DATABASE_PASSWORD" mlflow
dump mlflow "$MLFLOW_DATABASE_PASSWORD" mlflow_auth
dump prefect "$PREFECT_DATABASE_PASSWORD" prefect
# Artifacts come last: then all that the databases name are there.
tar --create --file="$backup.part/artifacts.tar" --directory="$ARTIFACTS" .

mv "$backup.part" "$backup"
find "$1" -mindepth 1 -maxdepth 1 -type d -mtime +"${KEEP_DAYS:-14}" -exec rm -r {} +
echo "$backup"
