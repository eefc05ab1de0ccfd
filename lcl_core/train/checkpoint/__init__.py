"""Checkpoints for exact resume: written under another name and renamed, checksummed; the newest valid one is used.

    checkpoints/step_00000100/
      model.safetensors             the weights
      optimizer.safetensors         first and second moments by parameter name, and the step of each
      rng.rank_00000.safetensors    what each rank has for itself
      state.json                    step, data position of each rank, counters
      manifest.json                 number of ranks, sha256 of the files above; written last

With FSDP2 a group is a folder, to which each rank writes its shards:

      model/rank_00000.safetensors  parts; the header says where each begins in the whole tensor

The header is that of torch.distributed.checkpoint's safetensors files, so ``HuggingFaceStorageReader`` reads such a
folder. Its writer is not used: it plans collectively at each save, computes no checksums, and hides the errno of a full
disk. Loading redistributes the parts over any number of ranks. Nothing is pickled.
"""
