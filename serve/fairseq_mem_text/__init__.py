"""How text is prepared, for training and for translating: one home, without fairseq or torch.

`preprocess.sh` makes training data with it, `fairseq-mem translate`, `export` and fairseq_mem_serve
treat raw text by the same code. Its modules:

- ``pipeline``: raw text to subword tokens and back, a sentence at a time
- ``words``: in which order raw text is composed, normalised and tokenised
- ``linear``, ``moses``: sacremoses' and subword-nmt's rules, on any text in linear time; and faster
- ``bpe``: learning BPE merges
- ``settings``: what ``settings.txt`` in a folder of data says about its text
- ``checks``, ``tokenizing``, ``segmenting``: whole parallel texts, on all cores
- ``preparing``, ``stages``: `preprocess.sh`'s work, and its stages as commands
- ``fetching``: files from a server, resumed and checked; packages by pip
- ``lines``, ``files``, ``workers``, ``progress``, ``arguments``, ``errors``: what these share
- ``version``: of all packages here, told nowhere else
- ``__main__``: both from a shell

Nothing is imported here, so that each module brings only what it needs.
"""
