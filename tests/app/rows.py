"""Ways to clean a row that go wrong, in a module of their own: the process that cleans imports no more than this."""

import os
import time


def hangs(row):
    while row == "hangs":
        time.sleep(0.01)
    return {"body": row}


def ends_itself(row):
    if row:
        os._exit(3)
    return {}
