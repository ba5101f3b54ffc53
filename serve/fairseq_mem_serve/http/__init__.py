"""A translation server: LibreTranslate's interface to folders that `fairseq-mem export` wrote.

It needs the extra `http` (`pip install 'fairseq-mem-serve[http]'`), but neither fairseq nor torch.
"""
