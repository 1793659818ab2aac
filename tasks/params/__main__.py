"""Write params.schema.json: `python -m tasks.params`."""

from llm.files import write_atomic
from tasks.params import PARAMS_FILE, SCHEMA_FILE, schema_text
from tasks.stages.yaml_text import read_yaml

write_atomic(SCHEMA_FILE, schema_text(read_yaml(PARAMS_FILE)))
