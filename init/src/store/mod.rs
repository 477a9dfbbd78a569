//! The store worker: the image in memory, its chunks and their hashes.
