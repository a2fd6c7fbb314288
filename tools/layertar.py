"""A directory tree as a layer tar: what `docker save` would have in its layer.

The tree is a plain root file system or the upper directory of a kernel
overlayfs mount. Overlayfs's own marks become the archive's marks:

  character device 0:0              ->  empty file `.wh.NAME`
  xattr trusted.overlay.opaque = y  ->  empty file `.wh..wh..opq` in the directory

Everything else is kept as it is: owners, modes, times to the nanosecond, xattrs,
devices, FIFOs, hard links, names of any bytes. Sockets cannot be in an archive.
Entries are sorted, so the same tree gives the same bytes.
"""

import os
import stat
import tarfile

OPAQUE = "trusted.overlay.opaque"


def pack(tree, out):
    """Write the layer of `tree` to the binary stream `out`."""
    links = {}
    with tarfile.open(fileobj=out, mode="w|", format=tarfile.PAX_FORMAT,
                      encoding="utf-8", errors="surrogateescape", copybufsize=1 << 20) as tar:
        for path, name in _walk(os.fsencode(tree), b""):
            _add(tar, path, name, links)


def _walk(directory, prefix):
    for entry in sorted(os.listdir(directory)):
        path, name = directory + b"/" + entry, prefix + entry
        yield path, name
        if stat.S_ISDIR(os.lstat(path).st_mode):
            yield from _walk(path, name + b"/")


def _add(tar, path, name, links):
    status = os.lstat(path)
    kind = stat.S_IFMT(status.st_mode)
    if kind == stat.S_IFSOCK:
        return
    if kind == stat.S_IFCHR and status.st_rdev == 0:
        tar.addfile(_mark(os.path.join(os.path.dirname(name), b".wh." + os.path.basename(name))))
        return

    xattrs = {key: os.getxattr(path, key, follow_symlinks=False)
              for key in os.listxattr(path, follow_symlinks=False)}
    entry = tarfile.TarInfo(os.fsdecode(name))
    entry.mode = stat.S_IMODE(status.st_mode)
    entry.uid, entry.gid = status.st_uid, status.st_gid
    seconds, nanoseconds = divmod(status.st_mtime_ns, 10**9)
    entry.mtime = seconds
    if nanoseconds and seconds >= 0:
        entry.pax_headers["mtime"] = f"{seconds}.{nanoseconds:09}"
    for key, value in sorted(xattrs.items()):
        if not key.startswith("trusted.overlay."):
            entry.pax_headers["SCHILY.xattr." + key] = value.decode("utf-8", "surrogateescape")

    if kind == stat.S_IFDIR:
        entry.type = tarfile.DIRTYPE
        tar.addfile(entry)
        if xattrs.get(OPAQUE) == b"y":
            tar.addfile(_mark(name + b"/.wh..wh..opq"))
        return
    if status.st_nlink > 1:
        inode = (status.st_dev, status.st_ino)
        if inode in links:
            entry.type, entry.linkname = tarfile.LNKTYPE, os.fsdecode(links[inode])
            tar.addfile(entry)
            return
        links[inode] = name
    if kind == stat.S_IFREG:
        entry.size = status.st_size
        with open(path, "rb") as data:
            tar.addfile(entry, data)
        return
    if kind == stat.S_IFLNK:
        entry.type, entry.linkname = tarfile.SYMTYPE, os.fsdecode(os.readlink(path))
    elif kind == stat.S_IFIFO:
        entry.type = tarfile.FIFOTYPE
    else:
        entry.type = tarfile.CHRTYPE if kind == stat.S_IFCHR else tarfile.BLKTYPE
        entry.devmajor, entry.devminor = os.major(status.st_rdev), os.minor(status.st_rdev)
    tar.addfile(entry)


def _mark(name):
    return tarfile.TarInfo(os.fsdecode(name))
