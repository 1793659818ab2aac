#!/bin/sh
# Make the databases of MLflow and Prefect, each of its own user, as PostgreSQL's administrator, once.
# The variables are those of postgres.env. Users may make databases, so that restore.sh can.
set -eu
psql --quiet --set=ON_ERROR_STOP=1 --username="${POSTGRES_USER:-postgres}" --dbname=postgres \
    --set=mlflow="$MLFLOW_DATABASE_PASSWORD" --set=prefect="$PREFECT_DATABASE_PASSWORD" <<'SQL'
CREATE ROLE mlflow LOGIN CREATEDB PASSWORD :'mlflow';
CREATE ROLE prefect LOGIN CREATEDB PASSWORD :'prefect';
CREATE DATABASE mlflow OWNER mlflow;
CREATE DATABASE mlflow_auth OWNER mlflow;
CREATE DATABASE prefect OWNER prefect;
SQL
