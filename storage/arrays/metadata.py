"""The metadata of a sharded store: created whole before any data, grown in one visible step.

Every group carries consolidated metadata, written children first and the root last. Readers see the
lengths stated there, so the root's file is the commit: until it is renamed, an extension
interrupted at any line is invisible, and the next one does it again.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np

from storage.arrays.specs import ArraySpec
from storage.files.files import Files

CODECS: dict[str, Any] = {"cname": "zstd", "clevel": 5}
ID_CHUNK = 16384
IMAGE_ID: dict[str, Any] = {
    "long_name": "image id",
    "units": "",
    "description": "the photograph's id, such as 10_left",
}


def create(files: Files, path: str, specs: list[ArraySpec], shard_images: int, attrs: dict) -> None:
    """Creates a store without images. A store that an interruption left without its root is
    replaced.
    """
    import zarr
    from zarr.codecs import ZstdCodec

    store = files.zarr(path, read_only=False)
    # `coordinates` is CF's way to say which variables are coordinates though no dimension has their
    # name.
    tree = zarr.create_group(
        store,
        overwrite=True,
        zarr_format=3,
        attributes={**attrs, "coordinates": "image_id", "shard_images": shard_images},
    )
    for group in sorted({"", *(spec.group for spec in specs)}):
        at = tree.create_group(group, attributes={"coordinates": "image_id"}) if group else tree
        at.create_array(
            "image_id",
            shape=(0,),
            dtype=str,
            chunks=(ID_CHUNK,),
            compressors=ZstdCodec(level=3),
            dimension_names=["image"],
            attributes=IMAGE_ID,
            config={"write_empty_chunks": True},
        )
        named = [spec.labels for spec in specs if spec.group == group]
        for dim, labels in {dim: names for one in named for dim, names in one.items()}.items():
            about: dict[str, Any] = {
                "long_name": dim,
                "units": "",
                "description": f"names along the dimension {dim}",
            }
            at.create_array(
                dim,
                shape=(len(labels),),
                dtype=str,
                chunks=(len(labels),),
                dimension_names=[dim],
                attributes=about,
            )[:] = _strings(labels)
    for spec in specs:
        _create_array(tree, spec, 0, shard_images)
    _commit(files, path, {}, files.walk(path))


def add(files: Files, path: str, nodes: dict[str, dict], specs: list[ArraySpec]) -> None:
    """Adds arrays to a store's root; its images read as filled there until their shards are
    written again. Visible with its last write only.
    """
    import zarr

    root = nodes[""]["attributes"]
    tree = zarr.open_group(files.zarr(path, read_only=False), mode="r+", use_consolidated=False)
    for spec in specs:
        _create_array(tree, spec, nodes["image_id"]["shape"][0], root["shard_images"])
    _commit(files, path, nodes, [_file(path, spec.path) for spec in specs])


def _commit(files: Files, path: str, nodes: dict[str, dict], written: list[str]) -> None:
    """Puts what was written on the disk; makes its nodes a part of the store, by one last write."""
    files.flush(written)
    names = [name for name in written if name.endswith("/zarr.json")]
    new = {
        name.removeprefix(path).removesuffix("zarr.json").strip("/"): json.loads(data)
        for name, data in zip(names, files.read_many(names), strict=True)
        if data
    }
    consolidate(files, path, nodes | new)


def _create_array(tree: Any, spec: ArraySpec, images: int, shard_images: int) -> None:
    from zarr.codecs import BloscCodec

    item = np.dtype(spec.dtype).itemsize
    tree.create_array(
        spec.path,
        shape=(images, *spec.shape),
        dtype=spec.dtype,
        fill_value=spec.fill,
        dimension_names=list(spec.dims),
        compressors=BloscCodec(**CODECS, shuffle=_shuffle(spec, item), typesize=item),
        attributes=spec.attributes(),
        # A chunk left out because it equals the fill could not be told from one that was lost.
        config={"write_empty_chunks": True},
        overwrite=True,
        **spec.chunking(shard_images),
    )


def _shuffle(spec: ArraySpec, item: int) -> Literal["noshuffle", "shuffle", "bitshuffle"]:
    """How a number's bytes are regrouped before compression.

    Rounded mantissas leave a whole byte of zeros and most of another: bytes of equal weight
    together took 5 % less than bits of equal weight (36 real eyes' maps,
    tests/benchmarks/codecs.py). Whole numbers and unrounded ones gain by bits.
    """
    if item == 1:
        return "noshuffle"
    return "bitshuffle" if spec.mantissa_bits is None else "shuffle"


def committed(files: Files, path: str) -> dict[str, dict] | None:
    """All nodes of a store by path, as last committed; None where the store was never finished."""
    root = files.read_json(_file(path, "")) or {}
    nodes = root.pop("consolidated_metadata", None)
    return None if nodes is None else {"": root, **nodes["metadata"]}


def extend(
    files: Files, path: str, nodes: Mapping[str, dict], old: list[str], new: list[str]
) -> dict[str, dict]:
    """Lengthens every array to hold `old + new` images and returns the new nodes. Visible with
    its last write only.
    """
    import zarr

    images, store = len(old) + len(new), files.zarr(path, read_only=False)
    shapes = {
        name: [images, *node["shape"][1:]] for name, node in nodes.items() if _is_along_images(node)
    }
    grown = {**nodes} | {name: {**nodes[name], "shape": shape} for name, shape in shapes.items()}
    for name in shapes:
        files.write_json(_file(path, name), grown[name])
        if name.rpartition("/")[2] == "image_id":
            zarr.open_array(store, path=name, mode="r+", zarr_format=3)[len(old) :] = _strings(new)
            files.flush(files.walk(f"{path}/{name}/c"))
    consolidate(files, path, grown)
    return grown


def consolidate(files: Files, path: str, nodes: dict[str, dict]) -> None:
    """Writes each group's metadata with that of everything below it; the root last, because it
    commits.

    zarr's own function would warn, and would order the nodes as the disk lists them: other bytes on
    another machine.
    """
    empty = {"kind": "inline", "must_understand": False, "metadata": {}}
    groups = {
        name: {**node, "consolidated_metadata": empty}
        for name, node in nodes.items()
        if node["node_type"] == "group"
    }
    inside = {**nodes, **groups}
    for group in sorted(groups, reverse=True):
        start = f"{group}/" if group else ""
        below = {
            name.removeprefix(start): node
            for name, node in inside.items()
            if name.startswith(start) and name
        }
        document = {**groups[group], "consolidated_metadata": {**empty, "metadata": below}}
        files.write_json(_file(path, group), document)


def is_data(name: str, node: dict) -> bool:
    """Whether a node is one of the arrays that shards write (and no group, id or label)."""
    return _is_along_images(node) and name.rpartition("/")[2] != "image_id"


def _is_along_images(node: dict) -> bool:
    return "image" in (node.get("dimension_names") or ())


def spec_of(name: str, node: dict) -> ArraySpec:
    attrs = dict(node["attributes"])
    fill = node["fill_value"]
    return ArraySpec(
        name,
        tuple(node["dimension_names"]),
        tuple(node["shape"][1:]),
        node["data_type"],
        float(fill) if isinstance(fill, str) else fill,
        *(attrs.pop(key, "") for key in ("long_name", "units", "description")),
        mantissa_bits=attrs.pop("mantissa_bits", None),
        attrs=attrs,
    )


def layout(specs: Sequence[ArraySpec], shard_images: int) -> dict[str, str]:
    """What must agree between the arrays wanted and those there, in words."""
    layout = {
        spec.path: (
            f"{spec.dtype} {dict(zip(spec.dims[1:], spec.shape, strict=True))}"
            + (f" of {spec.mantissa_bits} bits" if spec.mantissa_bits else "")
        )
        for spec in specs
    }
    return {**layout, "(shard)": f"{shard_images} images"}


def _file(path: str, node: str) -> str:
    """The file with a node's metadata; the root has no name."""
    return f"{path}/{node}/zarr.json" if node else f"{path}/zarr.json"


def _strings(values):
    return np.array(list(values), dtype=object)
