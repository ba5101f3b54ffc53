"""A command that asks the starter for a fork, and looks like it: streams, signals, exit status.

`ask.py SOCKET WORD...`; without any import that takes time.
"""

import json
import os
import signal
import socket
import sys

_, path, *words = sys.argv
link = socket.socket(socket.AF_UNIX)
link.connect(path)
request = {"words": words, "env": dict(os.environ), "cwd": os.getcwd()}
text = json.dumps(request).encode() + b"\n"
sent = socket.send_fds(link, [text], [0, 1, 2])
link.sendall(text[sent:])
for wanted in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
    if signal.getsignal(wanted) != signal.SIG_IGN:
        signal.signal(wanted, lambda number, _: link.sendall(bytes([number])))
with link.makefile() as answers:
    answers.readline()
    status = int(answers.readline())
if status < 0:  # as it ended
    signal.signal(-status, signal.SIG_DFL)
    os.kill(os.getpid(), -status)
sys.exit(status)
