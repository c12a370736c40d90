"""A file system (FUSE) whose files end elsewhere than their sizes say: sizes.py MOUNT_POINT."""

import errno
import stat
import sys

from fusepy import FUSE, FuseOSError, Operations

BYTES = bytes(range(256)) * 12_000

# What size each file claims, and what it holds; None goes on for ever.
FILES = {
    "/honest": (len(BYTES), BYTES),
    "/big-short": (5_000_000, BYTES),
    "/big-long": (2_000_000, BYTES),
    "/big-empty": (3_000_000, b""),
    "/none": (0, BYTES),
    "/long": (10, b"0123456789abcdef"),
    "/short": (100, b"xyz"),
    "/endless": (7, None),
}


class Sizes(Operations):
    def getattr(self, path, fh=None):
        times = {"st_mtime": 1_000_000_000, "st_ctime": 1_000_000_000}
        if path == "/":
            return {"st_mode": stat.S_IFDIR | 0o755, "st_nlink": 2, **times}
        if path not in FILES:
            raise FuseOSError(errno.ENOENT)
        return {"st_mode": stat.S_IFREG | 0o644, "st_nlink": 1, "st_size": FILES[path][0], **times}

    def readdir(self, path, fh):
        return [".", ".."] + [name[1:] for name in FILES]

    def read(self, path, size, offset, fh):
        contents = FILES[path][1]
        return b"e" * size if contents is None else contents[offset : offset + size]


FUSE(Sizes(), sys.argv[1], foreground=True, direct_io=True, nothreads=True)
