"""Questions that go on while things are done to the machine: a load balancer's, Route 53's and a user's."""

import http.client
import threading
import time
from collections import Counter


class Asking:
    """Asks each path several times a second, over a new connection each time as a load balancer does. Every question has to get
    the code that was promised for its path."""

    # `limit` is for an answer. The machine is emulated: what counts is that there is one.
    def __init__(self, port, promised, limit=20):
        self.port, self.promised, self.limit = port, promised, limit
        self.answers = []
        self.lock = threading.Lock()
        self.ended = threading.Event()
        self.threads = [threading.Thread(target=self.ask_on, args=(path,), daemon=True) for path in promised]
        for thread in self.threads:
            thread.start()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.ended.set()
        for thread in self.threads:
            thread.join(2 * self.limit)

    def ask_on(self, path):
        while not self.ended.is_set():
            began = time.monotonic()
            code, by, body = ask(self.port, path, self.limit)
            with self.lock:
                self.answers.append((path, code, by, body, time.monotonic() - began))
            # The pace, not a wait for anything.
            self.ended.wait(0.2)

    def counted(self):
        with self.lock:
            return Counter(path for path, *_ in self.answers)

    def taken(self, wait):
        """Waits until ten more questions to each path were answered, forgets them all, and says how many there were. Gives what was
        wrong, too."""
        before = self.counted()
        wait("ten more answers to each question", 60, lambda: all(self.counted()[path] >= before[path] + 10 for path in self.promised))
        with self.lock:
            answers, self.answers = self.answers, []
        wrong = [answer for answer in answers if answer[1] != self.promised[answer[0]]]
        held = sum(by == "absent" for _, _, by, *_ in answers)
        slowest = max(took for *_, took in answers)
        return f"{len(answers)} answers, {held} of them nginx's own, {len(wrong)} lost or wrong, the slowest {slowest:.1f} s", wrong


def ask(port, path, limit):
    """Status code, `X-Dr-Agent` and body of one answer; 0 and the reason if there is none."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=limit)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        body = answer.read().decode(errors="replace")
        return answer.status, answer.getheader("X-Dr-Agent", ""), body
    except (OSError, http.client.HTTPException) as error:
        return 0, "", repr(error)
    finally:
        connection.close()
