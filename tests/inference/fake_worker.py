"""A worker without a model: it speaks the real protocol and says what the test wants, as slowly as it wants.

python fake_worker.py PACKAGE_PARENT SCRIPT, where SCRIPT is JSON:

    deltas        the pieces of each reply; without them it is the last message
    delay         seconds after each delta and each step of the prompt
    prompt_steps  the number of PromptProgress events; 1
    folded        the number of messages that a Folded says are left out, if more than the request leaves out
    reason        of the Finished; "stop"
    finished      values that replace others in the Finished, by their names
    load_delay    seconds until it is loaded
    load_error    the sentence with which loading fails instead
    loaded        values that replace others in the Loaded, by their names
    die_after     the number of deltas after which it dies, by the `signal` ("SIGKILL")
    marker        a file that is made when the death has happened once, after which there is none

A prompt has as many tokens as its messages have words; what is folded does not count.
"""

import json
import os
import queue
import signal
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, sys.argv[1])
from inference.events import Delta, Failed, Finished, Folded, Loaded, PromptIds, PromptProgress, to_line

SCRIPT = json.loads(sys.argv[2])
LOADED = Loaded("Fake", "no model at all", 2048, 2048, 1, 0, 300, 1000, 4000, 512, "f16", False, True, "the file's own")


def send(event, request):
    sys.stdout.buffer.write(to_line(event, request))
    sys.stdout.buffer.flush()


def read(requests, stopped):
    for line in sys.stdin.buffer:
        values = json.loads(line)
        if values["type"] == "stop":
            stopped.add(values["request"])
        elif values["type"] == "prompt":
            send(PromptIds(prompt_ids(values)), values["request"])
        else:
            requests.put(values)
    os._exit(0)


def die():
    if marker := SCRIPT.get("marker"):
        if Path(marker).exists():
            return
        Path(marker).touch()
    print("GGML_ASSERT(fake) failed", file=sys.stderr, flush=True)
    os.kill(os.getpid(), getattr(signal, SCRIPT.get("signal", "SIGKILL")))


def prompt_ids(values):
    messages = values["messages"]
    system = sum(message["role"] == "system" for message in messages[:1])
    kept = messages[:system] + messages[system + values["folded"] :]
    return list(range(sum(len(message["content"].split()) for message in kept)))


def pause(request, stopped):
    end = time.monotonic() + SCRIPT.get("delay", 0)
    while request not in stopped and (left := end - time.monotonic()) > 0:
        time.sleep(min(left, 0.01))


def answer(values, stopped):
    request, seed = values["request"], values["sampling"]["seed"]
    folded = max(values["folded"], SCRIPT.get("folded", 0))
    if folded > values["folded"]:
        send(Folded(folded), request)
        values["folded"] = folded
    deltas = SCRIPT.get("deltas") or [values["messages"][-1]["content"]]
    steps = SCRIPT.get("prompt_steps", 1)
    for step in range(steps):
        send(PromptProgress(step + 1, steps), request)
        if request in stopped:
            deltas = []
            break
        pause(request, stopped)
    written = 0
    for text in deltas:
        if written == SCRIPT.get("die_after"):
            die()
        if request in stopped:
            break
        send(Delta(text), request)
        written += 1
        pause(request, stopped)
    reason = "cancelled" if request in stopped else SCRIPT.get("reason", "stop")
    total = len(prompt_ids(values))
    finished = Finished(reason, seed, total, total, 0, written, 0.1, max(0.01, written * 0.05), 0.1, folded=folded)
    send(replace(finished, **SCRIPT.get("finished", {})), request)


def main():
    requests, stopped = queue.SimpleQueue(), set()
    threading.Thread(target=read, args=(requests, stopped), daemon=True).start()
    while True:
        values = requests.get()
        if values["type"] == "load":
            time.sleep(SCRIPT.get("load_delay", 0))
            error = SCRIPT.get("load_error")
            send(Failed(error) if error else replace(LOADED, **SCRIPT.get("loaded", {})), values["request"])
        else:
            answer(values, stopped)


main()
