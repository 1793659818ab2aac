"""Make MLflow's users and the role of reviewers, with the variables of users.env: `python deploy/users.py`.

PASSWORD_NAME is the password of the user NAME. Users that exist keep theirs.
"""

import os
import sys

from mlflow.exceptions import RestException
from mlflow.server import get_app_client

WORKSPACE = "default"
REVIEWERS = "reviewers"
PREFIX = "PASSWORD_"


def make_users() -> list[str]:
    """Make the users that are missing, as the administrator. Returns their names."""
    admin = get_app_client("basic-auth", os.environ["MLFLOW_TRACKING_URI"])
    names = []
    for variable in sorted(os.environ):
        if variable.startswith(PREFIX):
            name = variable.removeprefix(PREFIX)
            try:
                admin.create_user(name, os.environ[variable])
            except RestException as error:
                if error.error_code != "RESOURCE_ALREADY_EXISTS":
                    raise
            else:
                names.append(name)
    if REVIEWERS not in [role.name for role in admin.list_roles(WORKSPACE)]:
        role = admin.create_role(WORKSPACE, REVIEWERS).id
        admin.add_role_permission(role, "registered_model", "*", permission="MANAGE")
        admin.add_role_permission(role, "experiment", "*", permission="EDIT")
        admin.assign_role("reviewer", role)
    return names


if __name__ == "__main__":
    sys.stdout.write(f"made users: {', '.join(make_users()) or 'none is missing'}\n")
