"""Runs spoolsweep's agent on a host with a plan on its standard input.

The host needs no Python: the agent is one static program, of which the collection
has one for each architecture, and it is sent to a host once.
"""

from __future__ import absolute_import, division, print_function

__metaclass__ = type

import hashlib
import json
import os
import re
import shlex

from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase

PLAN_VERSION = 1

# uname -m, and the architecture of the agent.
ARCHITECTURES = {
    "x86_64": "amd64", "amd64": "amd64", "aarch64": "arm64", "arm64": "arm64",
    "i386": "386", "i486": "386", "i586": "386", "i686": "386", "riscv64": "riscv64",
}

# Where the agent lies on a host: for who runs it alone.
FOLDER = "$HOME/.cache/spoolsweep"

UNITS = {"d": 86400, "h": 3600, "m": 60, "s": 1}


def nanoseconds(name, text):
    """A time such as 7d or 1h30m, as a plan has it."""
    if re.match(r"^([0-9]+[dhms])+$", str(text)) is None:
        raise AnsibleActionFail("%s: %s is no time such as 90s, 5m or 7d" % (name, text))
    parts = re.findall(r"([0-9]+)([dhms])", str(text))
    return sum(int(number) * UNITS[unit] for number, unit in parts) * 10**9


def given(args):
    """Those of the arguments that have a value."""
    return {name: value for name, value in args.items() if value is not None}


def who(found, few):
    """The largest of what suspects finds, a line each. Nobody is called hacked for a few
    bounces of his own.
    """
    lines = []
    for kind, word in (("sasl_users", "login"), ("senders", "sender"), ("scripts", "script")):
        lines += ["%d messages of %s %s" % (one["count"], word, one["value"]) for one in (found.get(kind) or [])[:3]]
    for one in (found.get("backscatter") or [])[:3]:
        finding = one.get("finding") or "not known whether it sent"
        if finding == "hacked" and one["count"] < few:
            finding = "hacked, or a member with a few bounces of his own"
        lines.append("%d bounces to %s: %s" % (one["count"], one["value"], finding))
    return lines


class AgentAction(ActionBase):
    """An action that gives the agent plans."""

    TRANSFERS_FILES = True

    SPEC = {}  # its arguments
    VARS = {}  # host variables that spoolsweep reads, and whether they are times

    def run(self, tmp=None, task_vars=None):
        task_vars = task_vars or {}
        result = super(AgentAction, self).run(tmp, task_vars)
        unused, args = self.validate_argument_spec(argument_spec=self.SPEC)
        try:
            result.update(self.act(args, task_vars))
        finally:
            self._remove_tmp_path(self._connection._shell.tmpdir)
        return result

    def act(self, args, task_vars):
        """What it does, and returns."""
        raise NotImplementedError()

    def plan(self, task_vars, **more):
        """A plan for this host."""
        plan = {
            "spoolsweep_plan": PLAN_VERSION,
            "host": task_vars.get("inventory_hostname", "localhost"),
            "name": self._task.action,
            "vars": self.host_vars(task_vars),
        }
        plan.update((name, value) for name, value in more.items() if value is not None)
        return plan

    def host_vars(self, task_vars):
        """What a plan says of the host."""
        found = {}
        for name, is_time in self.VARS.items():
            value = self._templar.template(task_vars.get(name))
            if value is not None and value != "":
                found[name] = nanoseconds(name, value) if is_time else value
        return found

    def carry_out(self, do, plan):
        """Gives the agent a plan. Returns its events, exit status and what it said."""
        agent = self.agent()
        ended = self._low_level_execute_command("%s %s" % (agent, do), in_data=json.dumps(plan).encode("utf-8"), sudoable=True)
        events = []
        for line in ended["stdout"].splitlines():
            if not line.startswith("{"):
                continue  # of a login shell
            try:
                events.append(json.loads(line))
            except ValueError:
                raise AnsibleActionFail("the agent printed no event: %s" % line[:200])
        return events, ended["rc"], ended["stderr"].strip()

    def agent(self):
        """The agent's path on the host, for the shell. It is sent where it is not there."""
        told = self._low_level_execute_command("uname -sm", sudoable=False)
        words = told["stdout"].split()[-2:]
        if len(words) != 2 or words[0] != "Linux" or words[1] not in ARCHITECTURES:
            raise AnsibleActionFail("no agent runs on %s: it is for Linux on %s" % (" ".join(words), ", ".join(sorted(ARCHITECTURES))))
        here = os.path.join(os.path.dirname(__file__), "..", "..", "files", "spoolsweep-agent-" + ARCHITECTURES[words[1]])
        try:
            with open(here, "rb") as file:
                sha256 = hashlib.sha256(file.read()).hexdigest()
        except IOError as e:
            raise AnsibleActionFail("this collection was built without the agent for %s: %s" % (words[1], e))
        there = "%s/spoolsweep-agent-%s" % (FOLDER, sha256)
        if self._low_level_execute_command('test -O "%s" && test -x "%s"' % (there, there), sudoable=True)["rc"] == 0:
            return '"%s"' % there
        tmp = self._make_tmp_path()
        sent = self._connection._shell.join_path(tmp, "spoolsweep-agent")
        self._transfer_file(os.path.realpath(here), sent)
        self._fixup_perms2((tmp, sent))
        # Its own hash is its name, so what arrived is looked at before it gets that.
        put = self._low_level_execute_command(
            'umask 077 && mkdir -p "{0}" && cp {1} "{2}.part" && echo "{3}  {2}.part" | sha256sum -c >/dev/null && chmod 700 "{2}.part" && mv "{2}.part" "{2}"'.format(
                FOLDER, shlex.quote(sent), there, sha256), sudoable=True)
        if put["rc"] != 0:
            raise AnsibleActionFail("the agent was not put into %s: %s" % (FOLDER, (put["stderr"] or put["stdout"]).strip()))
        return '"%s"' % there


class LookAction(AgentAction):
    """An action that has the agent do one stage, which only looks."""

    STAGE = None  # its name
    FEW_BOUNCES = 0  # of fewer than so many nobody is called hacked

    def act(self, args, task_vars):
        run = args.pop("run", None)
        steps = [{"stage": self.STAGE, "args": given(args)}]
        return self.told(*self.carry_out("check", self.plan(task_vars, steps=steps, run=run or None)))

    def told(self, events, status, said):
        """What a module returns."""
        result = {"changed": False, "failed": status != 0, "status": status}
        for event in events:
            data = event.get("data") or {}
            if event["event"] == "result" and event["stage"] == self.STAGE:
                result["result"] = data
            elif event["event"] == "warn":
                result.setdefault("warnings", []).append(data.get("message", ""))
            elif event["event"] == "end" and event["index"] < 0 and data.get("error"):
                result["msg"] = data["error"]
                if data.get("remedy"):
                    result["remedy"] = data["remedy"]
        if self.STAGE == "suspects" and "result" in result:
            result["who"] = who(result["result"], self.FEW_BOUNCES)
        if status == 0 and "result" not in result:
            result.update(failed=True, msg="the agent found nothing")
        if result["failed"]:
            result.setdefault("msg", said or "the agent ended with status %d" % status)
        return result
