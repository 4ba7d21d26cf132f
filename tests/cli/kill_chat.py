#!/usr/bin/env python3
"""Kills a chat that commits after each turn, at random moments, and looks whether every acknowledged turn is there.

    kill_chat.py SAMEPAGE FOLDER KILLS [SEED]

A turn is acknowledged when the line of its answer has ended. After each kill the session must open, and its commits must be the acknowledged turns
in their order, and at most one more: the turn that was on the disk and not yet on the line. Each life continues the session that the one before left.
"""
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time

samepage, folder, kills = sys.argv[1], sys.argv[2], int(sys.argv[3])
seed = int(sys.argv[4]) if len(sys.argv) > 4 else int.from_bytes(os.urandom(4), "little")
chance = random.Random(seed)
MOST_TURNS = 60  # of one session: a new one keeps the context from filling


def chat(name):
    command = [samepage, "chat", "--store", folder, "--session", name, "--temp", "0", "-n", "1", "-t", "1"]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def turns_on_disk(name):
    """What the session says it has, or [] where there is no session yet."""
    if not os.path.exists(os.path.join(folder, name + ".session")):
        return []
    shown = subprocess.run([samepage, "sessions", "show", "--store", folder, name, "--json"], capture_output=True, text=True)
    if shown.returncode != 0:
        sys.exit(f"kill_chat: the session does not open (seed {seed}): {shown.stderr.strip()}")
    return [c["user"] for c in json.loads(shown.stdout)["commit_list"] if c["kind"] == "turn"]


def live_and_die(name, first, answers, delay):
    """Starts a chat, sends turns as fast as they are answered, kills it `delay` seconds after so many answers. Returns what was sent and how many were
    acknowledged."""
    process = chat(name)
    timer = threading.Timer(delay, process.send_signal, [signal.SIGKILL])
    alarm = threading.Timer(120, process.terminate)  # a chat that hangs is an end of its own
    alarm.start()
    sent = []
    acknowledged = 0
    try:
        while True:
            if acknowledged == answers:
                timer.start()
            message = f"turn {first + len(sent)}"
            sent.append(message)
            process.stdin.write((message + "\n").encode())
            process.stdin.flush()
            line = process.stdout.readline()
            if not line.endswith(b"\n"):
                break
            acknowledged += 1
    except BrokenPipeError:
        pass
    process.wait()
    timer.cancel()
    alarm.cancel()
    errors = process.stderr.read().decode()
    for pipe in (process.stdout, process.stderr, process.stdin):
        try:
            pipe.close()
        except BrokenPipeError:
            pass
    if process.returncode != -signal.SIGKILL or errors:
        sys.exit(f"kill_chat: the chat ended by itself with {process.returncode} (seed {seed}): {errors.strip()}")
    return sent, acknowledged


def measure(turns):
    """Seconds that a chat of so many turns takes, which tells which moments are worth killing at."""
    started = time.monotonic()
    chat("measure").communicate(b"hello\n" * turns)
    return time.monotonic() - started


def run():
    measure(1)
    start = measure(1)
    turn = (measure(11) - start) / 10
    begun = time.monotonic()
    name, on_disk, sessions, acknowledged_in_all, unacknowledged = "k0", [], 1, 0, 0
    for kill in range(kills):
        answers = chance.choice([0, 1, 1, 2, 3])  # while it starts, or in the turn after so many
        sent, acknowledged = live_and_die(name, len(on_disk), answers, chance.uniform(0, 2 * turn if answers else start))
        found = turns_on_disk(name)
        must = on_disk + sent[:acknowledged]
        if found != must and found != on_disk + sent[: acknowledged + 1]:
            sys.exit(f"kill_chat: after kill {kill} (seed {seed}) there are {len(found)} turns, {len(must)} were acknowledged: {found[-3:]}")
        acknowledged_in_all += acknowledged
        unacknowledged += len(found) - len(must)
        on_disk = found
        if len(on_disk) > MOST_TURNS or kill == kills - 1:
            verified = subprocess.run([samepage, "sessions", "verify", "--store", folder, name], capture_output=True, text=True)
            if os.path.exists(os.path.join(folder, name + ".session")) and verified.returncode != 0:
                sys.exit(f"kill_chat: damaged (seed {seed}): {verified.stderr.strip()}")
            if kill != kills - 1:
                os.remove(os.path.join(folder, name + ".session"))
                name, on_disk, sessions = f"k{sessions}", [], sessions + 1
    took = time.monotonic() - begun
    if acknowledged_in_all == 0:
        sys.exit("kill_chat: no turn was acknowledged: nothing was tested")
    print(f"{kills} kills in {took:.0f} s, {took / kills * 1000:.0f} ms each (seed {seed}): {acknowledged_in_all} acknowledged turns, all there; "
          f"{unacknowledged} more were on the disk; {sessions} sessions, all whole")


run()
