"""Answers questions to Ansible's commands, a JSON document a line, in one
process: each question is a fork of it, which saves the second that Ansible
takes to start."""
import json
import os
import sys

from ansible.cli.adhoc import AdHocCLI
from ansible.cli.inventory import InventoryCLI
import ansible.executor.playbook_executor  # noqa: F401, loaded once, not in each fork
import ansible.plugins.loader  # noqa: F401

PROGRAMS = {"ansible": AdHocCLI, "ansible-inventory": InventoryCLI}


def answer(question):
    out, end = os.pipe()
    pid = os.fork()
    if pid == 0:
        status = 70
        try:
            os.dup2(end, 1)
            os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
            os.close(out)
            os.close(end)
            os.chdir(question["folder"])
            args = [question["program"]] + question["args"]
            sys.argv = args
            PROGRAMS[question["program"]].cli_executor(args)
            status = 0
        except SystemExit as e:
            status = e.code or 0
        finally:
            sys.stdout.flush()
            os._exit(status)
    os.close(end)
    with os.fdopen(out, "rb") as f:
        text = f.read().decode()
    _, status = os.waitpid(pid, 0)
    return {"out": text, "status": os.waitstatus_to_exitcode(status)}


for line in sys.stdin:
    print(json.dumps(answer(json.loads(line))), flush=True)
