"""A program of the environment `.tools/clip-client`: clip-retrieval's own client, and the reader of its indexing.

    python clip_client.py query URL NAME MODALITY NUMBER < JSON   `text`, `image` (a path) or `embedding_input`
    python clip_client.py read FOLDER                             all vectors and metadata of a folder of embeddings

The answer is one line of JSON. The package's `__init__` imports servers and models; the client's file is loaded alone.
"""

import importlib.util
import json
import sys
from pathlib import Path


def query(url: str, name: str, modality: str, number: str) -> object:
    package = importlib.util.find_spec("clip_retrieval")
    file = Path(package.submodule_search_locations[0]) / "clip_client.py"
    spec = importlib.util.spec_from_file_location("clip_client", file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    client = module.ClipClient(url=url, indice_name=name, modality=module.Modality(modality), num_images=int(number))
    return client.query(**json.load(sys.stdin))


def read(folder: str) -> object:
    from embedding_reader import EmbeddingReader

    reader = EmbeddingReader(
        embeddings_folder=f"{folder}/img_emb",
        metadata_folder=f"{folder}/metadata",
        file_format="parquet_npy",
        meta_columns=["image_path", "caption"],
    )
    rows, vectors = [], []
    for block, about in reader(batch_size=7, start=0, end=reader.count, show_progress=False):
        vectors += block.tolist()
        rows += about[["image_path", "caption"]].to_dict("records")
    return {"count": int(reader.count), "dim": reader.dimension, "vectors": vectors, "rows": rows}


if __name__ == "__main__":
    print(json.dumps({"query": query, "read": read}[sys.argv[1]](*sys.argv[2:])))
