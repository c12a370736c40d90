"""Mirrors one directory into another the way the usual short scripts do: walk, compare by MD5 in chunks of 4,096
bytes, copy, remove. For the benchmark; it heeds nothing but names, kinds and contents.

    python3 script.py SOURCE REPLICA
"""

import hashlib
import os
import shutil
import sys


def md5(path):
    digest = hashlib.md5()
    with open(path, "rb") as file:
        while chunk := file.read(4096):
            digest.update(chunk)
    return digest.digest()


def names_below(root):
    dirs, files = set(), set()
    for at, below, names in os.walk(root):
        place = os.path.relpath(at, root)
        dirs.update(os.path.normpath(os.path.join(place, name)) for name in below)
        files.update(os.path.normpath(os.path.join(place, name)) for name in names)
    return dirs, files


def mirror(source, replica):
    os.makedirs(replica, exist_ok=True)
    dirs, files = names_below(source)
    old_dirs, old_files = names_below(replica)
    for name in old_files - files:
        os.remove(os.path.join(replica, name))
    for name in sorted(old_dirs - dirs, reverse=True):
        os.rmdir(os.path.join(replica, name))
    for name in sorted(dirs - old_dirs):
        os.mkdir(os.path.join(replica, name))
    for name in files:
        ours, theirs = os.path.join(source, name), os.path.join(replica, name)
        if os.path.islink(ours):
            if not os.path.lexists(theirs):
                os.symlink(os.readlink(ours), theirs)
        elif name not in old_files or md5(ours) != md5(theirs):
            shutil.copy2(ours, theirs)


mirror(sys.argv[1], sys.argv[2])
