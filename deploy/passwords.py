"""Write the passwords of a team's servers and people, once: `python3 deploy/passwords.py [FOLDER]`.

FOLDER is deploy/secrets by default. Each of its files is the environment of one service or of one person; only its
owner can read it. If the folder exists, nothing is written.
"""

import secrets
import sys
import tempfile
from pathlib import Path

FOLDER = Path(__file__).parent / "secrets"
MLFLOW = {"MLFLOW_TRACKING_URI": "http://127.0.0.1:5000"}
PREFECT = {"PREFECT_API_URL": "http://127.0.0.1:4200/api"}
TEAM = {"THREESTAGE_NAMESPACE": "threestage"}
PEOPLE = ("training", "reviewer", "engineer", "editor", "app")
USE_PREFECT = ("training", "reviewer")
USE_TEAM_MODELS = ("training", "reviewer", "app")


def password() -> str:
    """192 random bits, in characters that are safe in a shell, a URL and a systemd unit."""
    return secrets.token_hex(24)


def environments() -> dict[str, dict[str, str]]:
    """The variables of each service and person, with new passwords."""
    admin, mlflow_database, prefect_database = password(), password(), password()
    prefect = f"team:{password()}"
    passwords = {name: password() for name in PEOPLE}
    files = {
        "postgres": {
            "POSTGRES_PASSWORD": password(),
            "MLFLOW_DATABASE_PASSWORD": mlflow_database,
            "PREFECT_DATABASE_PASSWORD": prefect_database,
        },
        "mlflow": {
            "PGPASSWORD": mlflow_database,
            "MLFLOW_AUTH_ADMIN_PASSWORD": admin,
            "MLFLOW_FLASK_SERVER_SECRET_KEY": password(),
        },
        "prefect": {"PGPASSWORD": prefect_database, "PREFECT_SERVER_API_AUTH_STRING": prefect},
        "users": {"MLFLOW_TRACKING_USERNAME": "admin", "MLFLOW_TRACKING_PASSWORD": admin},
    }
    for name in PEOPLE:
        files["users"][f"PASSWORD_{name}"] = passwords[name]
        files[name] = MLFLOW | {"MLFLOW_TRACKING_USERNAME": name, "MLFLOW_TRACKING_PASSWORD": passwords[name]}
        if name in USE_TEAM_MODELS:
            files[name] |= TEAM
        if name in USE_PREFECT:
            files[name] |= PREFECT | {"PREFECT_API_AUTH_STRING": prefect}
    files["app"]["THREESTAGE_API_KEYS"] = password()
    return files


def write(folder: Path) -> bool:
    """Write a new folder of environment files, all or none. Returns False if the folder exists."""
    if folder.exists():
        return False
    fresh = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f"{folder.name}-"))  # mode 0700
    for name, variables in environments().items():
        path = fresh / f"{name}.env"
        path.touch(mode=0o600)
        path.write_text("".join(f"{variable}={value}\n" for variable, value in variables.items()))
    fresh.rename(folder)
    return True


def main() -> None:
    """Write the files, and say where they are."""
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else FOLDER
    written = write(folder)
    sys.stdout.write(f"wrote {folder}\n" if written else f"{folder} exists; nothing was written\n")


if __name__ == "__main__":
    main()
