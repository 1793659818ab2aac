"""What the tags of a version say of git; uncommitted.py says it of records."""

from collections.abc import Mapping

from tasks.registry.record import DATA
from tasks.stages.hashes import PREFIX

UNCOMMITTED = f"{PREFIX}.git.dirty.params"  # the tag that says in words what no commit holds


def not_in_git(tags: Mapping[str, str]) -> str:
    """What a version was made from that no commit holds, in words; empty where a commit holds it all."""
    if tags.get(f"{PREFIX}.git.commit", "none") == "none":
        return "no git commit is known"
    dirty = [part for part in ("code", *DATA) if tags.get(f"{PREFIX}.git.dirty.{part}") != "false"]
    return (tags.get(UNCOMMITTED) or f"not in git: {', '.join(dirty)}") if dirty else ""
