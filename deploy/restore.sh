#!/bin/sh
# Restore a backup over databases and artifacts, while MLflow and Prefect are stopped: sh restore.sh FOLDER/DATE
# The variables are those of backup.sh.
set -eu
backup="$1"
for file in mlflow.dump mlflow_auth.dump prefect.dump artifacts.tar; do
    test -r "$backup/$file" || { echo "error: $backup/$file is missing: nothing was restored" >&2; exit 1; }
done

restore() {
    PGUSER="$1" PGPASSWORD="$2"
    export PGUSER PGPASSWORD
    dropdb --if-exists --force "$3"
    createdb "$3"
    pg_restore --no-owner --exit-on-error --dbname="$3" "$backup/$3.dump"
}
restore mlflow "$MLFLOW_DATABASE_PASSWORD" mlflow
restore mlflow "$MLFLOW_DATABASE_PASSWORD" mlflow_auth
restore prefect "$PREFECT_DATABASE_PASSWORD" prefect
tar --extract --file="$backup/artifacts.tar" --directory="$ARTIFACTS"
