"""Actions that change something: each gives the agent a plan, which the host carries
out by itself, and tells what has come of it.
"""

from __future__ import absolute_import, division, print_function

__metaclass__ = type

import datetime
import getpass
import random
import re
import socket

from ansible.errors import AnsibleConnectionFailure

from ansible_collections.spoolsweep.postfix.plugins.plugin_utils.agent import AgentAction, given

DIGITS = "0123456789abcdefghijklmnopqrstuvwxyz"

TEMPLATE = re.compile(r"^\{\{ \.(\w+) \}\}$")


def new_id():
    """The id of a run that begins now: ids sort by time."""
    now = datetime.datetime.utcnow()
    part = now.microsecond * 1296 // 10**6
    return "%s-%s%s%s%s" % (now.strftime("%Y%m%dT%H%M%SZ"), DIGITS[part // 36], DIGITS[part % 36], random.choice(DIGITS), random.choice(DIGITS))


def me():
    """Who it is, for the record."""
    try:
        return "%s@%s" % (getpass.getuser(), socket.gethostname())
    except (KeyError, OSError):  # a user with no name, in a container
        return socket.gethostname()


def filled(steps, values):
    """Steps whose templates have their values."""
    found = []
    for step in steps:
        args = {}
        for name, value in step["args"].items():
            match = TEMPLATE.match(value) if isinstance(value, str) else None
            args[name] = values.get(match.group(1), "") if match else value
        found.append(dict(step, args=args))
    return found


def variables(steps):
    """The names of the variables that steps have."""
    matches = [TEMPLATE.match(v) for step in steps for v in step["args"].values() if isinstance(v, str)]
    return sorted(set(m.group(1) for m in matches if m))


def messages(number):
    return "1 message" if number == 1 else "%d messages" % number


class Told(object):
    """What the agent told of a plan."""

    def __init__(self, events, status, said):
        self.status, self.said = status, said
        self.events = [e for e in events if e["event"] != "progress"]
        self.run, self.instance = "", "-"
        self.state, self.preflight, self.would, self.end = None, None, None, None
        self.results, self.news, self.ask, self.warnings = {}, {}, {}, []
        self.acted = False  # something was done by what was told last
        for event in self.events:
            kind, stage, data = event["event"], event["stage"], event.get("data") or {}
            self.run, self.instance = event["run"] or self.run, event["instance"]
            if kind == "result" and stage == "state":
                self.state = data
            elif kind == "result" and stage == "preflight":
                self.preflight = data
            elif kind == "result":
                self.results[stage] = data
                if self.new(event):
                    self.news[stage] = data
            elif kind == "would":
                self.would = data
            elif kind == "ask":
                self.ask = data.get("data") or {}
            elif kind == "warn" and self.new(event):
                self.warnings.append(data.get("message", ""))
            elif kind == "end" and not stage:
                self.end = data
            elif kind == "end" and self.new(event):
                self.acted = self.acted or data.get("changed", False)

    def new(self, event):
        """Whether it happened since the plan was given."""
        return event["seq"] > (self.state or {}).get("seen", 0)

    def result(self):
        """What every module returns."""
        result = {
            "changed": False, "failed": self.status != 0, "status": self.status,
            "run": self.run, "instance": self.instance, "events": self.events, "results": self.results,
        }
        if self.warnings:
            result["warnings"] = self.warnings
        if not result["failed"]:
            return result
        end = self.end or {}
        remedy = end.get("remedy", "")
        if end.get("status") == "waiting":
            result["waits"] = end.get("asks", "")
            result["msg"] = "run %s waits for %s, and mail flows" % (self.run, result["waits"])
            if self.ask.get("reasons"):
                result["reasons"] = self.ask["reasons"]
                result["msg"] += ": " + "; ".join(self.ask["reasons"])
        else:
            result["msg"] = end.get("error") or self.said or "the agent ended with status %d, and told no end" % self.status
            if not end and self.run:
                remedy = "the run goes on there: spoolsweep attach %s, or the same task again with run: %s" % (self.run, self.run)
        if remedy:
            result["remedy"] = remedy
            result["msg"] += " (%s)" % remedy
        return result


class ChangeAction(AgentAction):
    """An action that changes something."""

    def tell(self, plan, check=None):
        """Gives the agent a plan, or has it checked."""
        if check is None:
            check = self._task.check_mode
        try:
            return Told(*self.carry_out("check" if check else "run", plan))
        except AnsibleConnectionFailure as e:
            if plan.get("run") and not check:
                raise AnsibleConnectionFailure("%s; if run %s has begun it goes on there: spoolsweep attach %s tells, and so does the same task with run: %s" % (
                    e, plan["run"], plan["run"], plan["run"]))
            raise

    def plan(self, task_vars, **more):
        hosts = task_vars.get("ansible_play_hosts_all")
        return super(ChangeAction, self).plan(task_vars, who=me(), hosts=hosts or None, **more)

    def differs(self, result, before, after):
        """Adds a difference, each side a map of words to numbers."""
        if self._task.diff and before != after:
            result["diff"] = {"before_header": "before", "after_header": "after"}
            for name, side in (("before", before), ("after", after)):
                result["diff"][name] = "".join("%s: %s\n" % (word, side[word]) for word in sorted(side))


class SetAsideAction(ChangeAction):
    """The playbook's stages up to the start of Postfix, as one plan."""

    STEPS = []
    PLAYBOOK = ""
    NAME = ""  # of the playbook

    def act(self, args, task_vars):
        values = {name: self._templar.template(task_vars.get(name)) for name in variables(self.STEPS)}
        values.update(args)
        values = {name: "" if values.get(name) is None else values[name] for name in variables(self.STEPS)}
        plan = self.plan(task_vars, do="begin", only_full=True, run=args["run"] or new_id(), reason=args["reason"],
                         steps=filled(self.STEPS, values), extra=values, playbook=self.PLAYBOOK)
        plan["name"] = self.NAME
        told = self.tell(plan)
        result = told.result()
        full = (told.preflight or {}).get("aside") or []
        if self._task.check_mode:
            result["changed"] = bool((told.would or {}).get("changes"))
            went = {queue: {"messages": self.queued(told, queue), "to": queue + ".spamfull"} for queue in full} if result["changed"] else {}
        else:
            result["changed"] = told.acted
            went = (told.news.get("set-aside") or {}).get("queues") or {}
        before, after = {}, {}
        for queue, moved in went.items():
            if queue != "defer":
                before[queue] = self.queued(told, queue)
                after[queue], after[moved["to"]] = 0, moved["messages"]
        self.differs(result, before, after)
        if result["failed"]:
            return result
        if went:
            result["msg"] = "%s set aside: %s" % (messages(sum(n for name, n in after.items() if n)), ", ".join(sorted(before)))
            down = (told.results.get("start") or {}).get("downtime_seconds")
            if down is not None:
                result["msg"] += "; Postfix was down for %.2f s" % down
        elif told.state is None:
            result["msg"] = "no queue is full"
            left = [r for r in (told.preflight or {}).get("runs") or [] if r["aside"] > 0]
            if left:
                result["run"] = left[0]["run"]
                result["msg"] += "; run %s has %s aside" % (left[0]["run"], messages(left[0]["aside"]))
        return result

    @staticmethod
    def queued(told, queue):
        return ((told.preflight or {}).get("counts") or {}).get("queues", {}).get(queue, {}).get("messages", 0)


class RestoreAction(ChangeAction):
    """The playbook's stages behind the start of Postfix, of a run that there is."""

    STEPS = []

    def act(self, args, task_vars):
        values = {name: args.get(name) for name in variables(self.STEPS)}
        steps = filled(self.STEPS, values)
        for step in steps:
            if step["stage"] == "confirm" and args["expect"] is not None:
                step["args"]["expect"] = args["expect"]
        # Rules that are left out are those that the run has.
        extra = {name: value for name, value in values.items() if value or name not in ("spam", "ham")}
        told = self.tell(self.plan(task_vars, do="resume", run=args["run"] or None, yes=True, steps=steps, extra=extra))
        result = told.result()
        if told.state is None:
            result.setdefault("msg", "nothing is aside")
            return result
        aside = told.state["aside"]
        judged = told.results.get("classify") or {}
        if self._task.check_mode:
            going = judged.get("ham", 0) if (told.would or {}).get("changes") else 0
            where = {queue: sums["ham"] for queue, sums in (judged.get("by_queue") or {}).items() if sums.get("ham")} if going else {}
            left = aside - going
        else:
            done = told.news.get("restore") or {}
            left = done.get("left", aside)
            going = max(0, aside - left)
            where = (done.get("by_queue") or {}) if going else {}
        result["changed"] = going > 0
        after = {"back in " + queue: number for queue, number in where.items()}
        after["aside"] = left
        self.differs(result, {"aside": aside}, after)
        if not result["failed"]:
            result["msg"] = "%s sent back, %d still aside" % (messages(going), left)
        elif result.get("waits") == "rules":
            result["msg"] += "; rules of what is spam are wanted"
        return result


class CountedAction(ChangeAction):
    """One stage that wants to know beforehand how many messages go."""

    STAGE = ""
    DONE = ""  # what is done to them
    SENT = ""  # how many were, in its result
    OF = ""  # of which

    def counted(self, args, task_vars):
        """The plan, which a check counts."""
        raise NotImplementedError()

    def before(self, told, going):
        """How many there are of which."""
        raise NotImplementedError()

    def act(self, args, task_vars):
        told = self.tell(self.counted(args, task_vars), check=True)
        result = told.result()
        would = told.would or {}
        going = would.get("messages")
        result["would"] = would.get("putback") or would.get("removal") or {}
        if result["failed"]:
            return result
        working = told.state is not None and (going is None or told.state["phase"] == "working")
        if not working and not going:
            result["msg"] = "nothing is to be " + self.DONE
            return result
        if not working and args["expect"] is None and not self._task.check_mode:
            result.update(failed=True, msg="%s would be %s, and expect does not say that number: nothing was done" % (messages(going), self.DONE),
                          remedy="look at what would go (would), then give expect: %d" % going)
            return result
        if not working and args["expect"] is not None and args["expect"] != going:
            result.update(failed=True, msg="%s would be %s, not the %d of expect: nothing was done" % (messages(going), self.DONE, args["expect"]),
                          remedy="look at what would go (would), then give expect: %d" % going)
            return result
        before = self.before(told, going)
        if self._task.check_mode:
            result.update(changed=not working, msg="%s would be %s" % (messages(going or 0), self.DONE))
            if not working:
                self.differs(result, {self.DONE: 0, self.OF: before}, {self.DONE: going, self.OF: before - going})
            return result
        would = result["would"]
        told = self.tell(self.counted(args, task_vars))
        result = told.result()
        result["would"] = would
        gone = (told.news.get(self.STAGE) or {}).get(self.SENT, 0)
        result["changed"] = gone > 0
        self.differs(result, {self.DONE: 0, self.OF: before}, {self.DONE: gone, self.OF: before - gone})
        if not result["failed"]:
            result["msg"] = "%s %s" % (messages(gone), self.DONE)
        return result

    def step(self, args):
        return {"stage": self.STAGE, "args": {k: v for k, v in given(args).items() if k not in ("run", "reason")}}


class PutbackAction(CountedAction):
    """Sends back what a run still has aside."""

    DONE, SENT, OF = "sent back", "restored", "aside"

    def counted(self, args, task_vars):
        return self.plan(task_vars, do="add", run=args["run"] or None, steps=[self.step(args)])

    def before(self, told, going):
        return told.state["aside"]


class DeleteAction(CountedAction):
    """Deletes what rules take from live queues."""

    DONE, SENT, OF = "deleted", "deleted", "matching"

    # As the command has it, so that the run's record says what it did.
    PLAYBOOK = """name: delete
vars: {spam: {}, ham: {}}
stages:
  - delete: {spam: "{{ .spam }}", ham: "{{ .ham }}", queues: [%s], expect: %s}
"""

    def counted(self, args, task_vars):
        if not args["run"]:
            args["run"] = new_id()
        queues = args["queues"] if isinstance(args["queues"], list) else [args["queues"]]
        plan = self.plan(task_vars, do="begin", run=args["run"], reason=args["reason"], yes=True, steps=[self.step(args)],
                         extra={"spam": args["spam"] or {}, "ham": args["ham"] or {}},
                         playbook=self.PLAYBOOK % (", ".join(str(q) for q in queues), args["expect"] or 0))
        plan["name"] = "delete"
        return plan

    def before(self, told, going):
        return going or 0
