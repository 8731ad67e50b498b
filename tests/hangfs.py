#!/usr/bin/env python3
"""A file system that hangs or fails when told to: the stand-in for EFS in the tests and the demonstration.

    hangfs.py MOUNT CONTROL [--source NAME] [--read-only] [--backing DIR]

Files live under DIR (by default a fresh one, CONTROL/data). The directory CONTROL tells it what to do:

    CONTROL/freeze   while this file exists, every operation waits (or only those whose names it contains). Whoever
                     waits cannot be killed, because the daemon has taken the request. (With SIGSTOP to the daemon,
                     whoever waits can be killed.)
    CONTROL/errno    lines of OPERATION ERRNO, as in `mkdir 13`; `*` is every operation. Those fail with that number.
                     A line OPERATION ERRNO once fails the first time only.
    CONTROL/delay    seconds that every operation takes longer.

It ends when it is unmounted (`umount -l MOUNT`) or killed; killing it ends everybody's waiting. The type in mountinfo
is `fuse.hangfs`. Needs the package `fusepy` and libfuse 2.
"""

import argparse
import errno
import os
import pathlib
import threading
import time

import fuse


def give_to_caller(path):
    uid, gid, _ = fuse.fuse_get_context()
    os.lchown(path, uid, gid)


class HangFs(fuse.Operations):
    def __init__(self, backing: pathlib.Path, control: pathlib.Path):
        self.backing = os.fsencode(backing)
        self.control = control
        self.used_up = set()
        self.guard = threading.Lock()

    def __call__(self, operation, path, *args):
        if operation not in ("init", "destroy"):
            while self.is_frozen(operation):
                time.sleep(0.01)
            self.delay()
            self.fail(operation)
        return super().__call__(operation, self.backing + os.fsencode(path), *args)

    def is_frozen(self, operation):
        try:
            names = (self.control / "freeze").read_text().split()
        except FileNotFoundError:
            return False
        return not names or operation in names

    def delay(self):
        try:
            time.sleep(float((self.control / "delay").read_text()))
        except (FileNotFoundError, ValueError):
            pass

    def fail(self, operation):
        try:
            lines = (self.control / "errno").read_text().splitlines()
        except FileNotFoundError:
            self.used_up.clear()
            return
        for line in lines:
            name, number, *once = line.split()
            if name not in ("*", operation):
                continue
            if once:
                with self.guard:
                    if line in self.used_up:
                        continue
                    self.used_up.add(line)
            raise fuse.FuseOSError(int(number))

    def getattr(self, path, fh=None):
        try:
            found = os.lstat(path)
        except OSError as error:
            raise fuse.FuseOSError(error.errno) from error
        names = ("st_mode", "st_nlink", "st_uid", "st_gid", "st_size", "st_atime", "st_mtime", "st_ctime")
        return {name: getattr(found, name) for name in names}

    def statfs(self, path):
        found = os.statvfs(path)
        names = ("f_bsize", "f_frsize", "f_blocks", "f_bfree", "f_bavail", "f_files", "f_ffree", "f_favail", "f_namemax")
        return {name: getattr(found, name) for name in names}

    def readdir(self, path, fh):
        return [".", "..", *map(os.fsdecode, os.listdir(path))]

    def access(self, path, mode):
        if not os.access(path, mode):
            raise fuse.FuseOSError(errno.EACCES)

    def open(self, path, flags):
        return os.open(path, flags)

    def create(self, path, mode, fi=None):
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC, mode)
        give_to_caller(path)
        return handle

    def read(self, path, size, offset, fh):
        return os.pread(fh, size, offset)

    def write(self, path, data, offset, fh):
        return os.pwrite(fh, data, offset)

    def truncate(self, path, length, fh=None):
        os.truncate(path, length)

    def flush(self, path, fh):
        pass

    def fsync(self, path, datasync, fh):
        os.fsync(fh)

    def release(self, path, fh):
        os.close(fh)

    def mkdir(self, path, mode):
        os.mkdir(path, mode)
        give_to_caller(path)

    def rename(self, old, new):
        os.rename(old, self.backing + os.fsencode(new))

    def rmdir(self, path):
        os.rmdir(path)

    def unlink(self, path):
        os.unlink(path)

    def chmod(self, path, mode):
        os.chmod(path, mode)

    def chown(self, path, uid, gid):
        os.chown(path, uid, gid)

    def utimens(self, path, times=None):
        os.utime(path, times)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("mount", type=pathlib.Path)
    parser.add_argument("control", type=pathlib.Path)
    parser.add_argument("--source", default="hangfs", help="what mountinfo shows as the source")
    parser.add_argument("--read-only", action="store_true")
    parser.add_argument("--backing", type=pathlib.Path)
    args = parser.parse_args()
    backing = args.backing or args.control / "data"
    backing.mkdir(parents=True, exist_ok=True)
    # Nothing is cached by the kernel: every operation reaches this process, as it would reach an NFS server.
    uncached = {"attr_timeout": 0, "entry_timeout": 0, "negative_timeout": 0, "direct_io": True}
    fuse.FUSE(
        HangFs(backing.resolve(), args.control.resolve()),
        str(args.mount),
        foreground=True,
        fsname=args.source,
        subtype="hangfs",
        allow_other=True,
        default_permissions=True,
        ro=args.read_only,
        **uncached,
    )


if __name__ == "__main__":
    main()
