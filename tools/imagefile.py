"""An image from its layer tars, in the two forms other tools exchange.

`docker_archive` writes what `docker save` writes: one tar with manifest.json, the
configuration and plain layers. `oci_layout` writes the directory of the OCI image
specification, with its layers compressed (gzip or zstd).
"""

import gzip
import hashlib
import io
import json
import os
import shutil
import subprocess
import tarfile

CREATED = "2024-01-01T00:00:00Z"
ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}


def config(settings, layers, history):
    """The image configuration (bytes): `settings` is Docker's Config object."""
    machine = os.uname().machine
    return _json({
        "architecture": ARCHITECTURES.get(machine, machine),
        "os": "linux",
        "created": CREATED,
        "config": settings,
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{_digest(layer)}" for layer in layers]},
        "history": [{"created": CREATED, "created_by": text} for text in history],
    })


def docker_archive(out, reference, configuration, layers):
    """Write the image as a `docker save` archive to the path `out`."""
    name = hashlib.sha256(configuration).hexdigest() + ".json"
    paths = [f"{_digest(layer)}/layer.tar" for layer in layers]
    partial = f"{out}.partial"
    with tarfile.open(partial, "w", format=tarfile.PAX_FORMAT) as tar:
        _add(tar, name, configuration)
        for path, layer in zip(paths, layers):
            entry = tarfile.TarInfo(path)
            entry.size = os.path.getsize(layer)
            with open(layer, "rb") as data:
                tar.addfile(entry, data)
        _add(tar, "manifest.json", _json([{"Config": name, "RepoTags": [reference], "Layers": paths}]))
    os.rename(partial, out)


def oci_layout(out, reference, configuration, layers, compression="gzip"):
    """Write the image as an OCI layout to the directory `out`, replacing it."""
    partial = f"{out}.partial"
    shutil.rmtree(partial, ignore_errors=True)
    blobs = f"{partial}/blobs/sha256"
    os.makedirs(blobs)
    media = "application/vnd.oci.image"
    manifest = _json({
        "schemaVersion": 2,
        "mediaType": f"{media}.manifest.v1+json",
        "config": _blob(blobs, configuration, f"{media}.config.v1+json"),
        "layers": [_compressed(blobs, layer, f"{media}.layer.v1.tar", compression) for layer in layers],
    })
    descriptor = _blob(blobs, manifest, f"{media}.manifest.v1+json")
    # The whole name, as `docker save` annotates it; a bare tag would lose the repository.
    descriptor["annotations"] = {"org.opencontainers.image.ref.name": reference}
    _write(f"{partial}/index.json", _json({"schemaVersion": 2, "manifests": [descriptor]}))
    _write(f"{partial}/oci-layout", _json({"imageLayoutVersion": "1.0.0"}))
    shutil.rmtree(out, ignore_errors=True)
    os.rename(partial, out)


def _compressed(blobs, layer, media, compression):
    partial = f"{blobs}/partial"
    with open(layer, "rb") as source, open(partial, "wb") as sink:
        if compression == "gzip":
            with gzip.GzipFile("", "wb", compresslevel=4, fileobj=sink, mtime=0) as stream:
                shutil.copyfileobj(source, stream, 1 << 20)
        else:
            subprocess.run(["zstd", "-q", "-3", "-c"], stdin=source, stdout=sink, check=True)
    digest, size = _digest(partial), os.path.getsize(partial)
    os.rename(partial, f"{blobs}/{digest}")
    return {"mediaType": f"{media}+{compression}", "digest": f"sha256:{digest}", "size": size}


def _blob(blobs, data, media):
    digest = hashlib.sha256(data).hexdigest()
    _write(f"{blobs}/{digest}", data)
    return {"mediaType": media, "digest": f"sha256:{digest}", "size": len(data)}


def _digest(path):
    digest = hashlib.sha256()
    with open(path, "rb") as source:
        while block := source.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _add(tar, name, data):
    entry = tarfile.TarInfo(name)
    entry.size = len(data)
    tar.addfile(entry, io.BytesIO(data))


def _json(value):
    return json.dumps(value, indent=1).encode() + b"\n"


def _write(path, data):
    with open(path, "wb") as sink:
        sink.write(data)
