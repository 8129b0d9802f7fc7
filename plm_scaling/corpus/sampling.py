"""Cluster sampling: one member of each 50 % identity cluster per epoch, a pure function of (cluster, epoch).

ESM-2 draws a member at random each time, so that after n draws from a cluster of n members 1/e of them (37 %, large n)
were never drawn. Here the members take turns in a keyed order: any n epochs in a row show each of the n members once.
The choice of an epoch is as arbitrary, the coverage is better and the repeats come as late as they can.

**Source:** Lin et al. 2023, "Evolutionary-scale prediction of atomic-level protein structure with a language model",
Science 379 (sequences sampled evenly across UniRef50 clusters, from the members that UniRef90 keeps).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from plm_scaling.corpus.mixing import mix64

__all__ = ["ClusterPool", "cluster_keys", "cluster_pool"]

Int = npt.NDArray[np.int64]
Key = npt.NDArray[np.uint64]

_CLUSTER_KEY: Final = np.uint64(0x636C757374657273)
_TURN_KEY: Final = np.uint64(0x7475726E7475726E)
"""Both fixed for ever: they decide which clusters a subset of U unique tokens holds, and whose turn an epoch is."""


@dataclass(frozen=True)
class ClusterPool:
    """Rows grouped by cluster; clusters in keyed order, the members of each in keyed order.

    Attributes
    ----------
    rows : int64[n], the members of cluster c are rows[start[c]] to rows[start[c + 1]].
    start : int64[n_clusters + 1].
    turn : int64[n_clusters], the member that epoch 0 shows.
    """

    rows: Int
    start: Int
    turn: Int

    def epoch(self, epoch: int) -> Int:
        """int64[n_clusters]: the member of each cluster that an epoch shows."""
        shown: Int = self.rows[self.start[:-1] + (self.turn + epoch) % np.diff(self.start)]
        return shown

    def tokens(self, length: Int) -> Int:
        """int64[n_clusters]: tokens of all members of each cluster.

        Parameters
        ----------
        length : int64[], residues of every record of the corpus.
        """
        return np.add.reduceat(length[self.rows] + 1, self.start[:-1]) if len(self.rows) else self.rows

    def between(self, first: int, last: int) -> ClusterPool:
        """The clusters [first, last) alone."""
        begin, end = int(self.start[first]), int(self.start[last])
        return ClusterPool(self.rows[begin:end], self.start[first : last + 1] - begin, self.turn[first:last])


def cluster_keys(cluster: Int, sequence_key: Key) -> Key:
    """uint64[largest number + 1]: a key per cluster that depends on its sequences alone, not on its number.

    The least key of a cluster's sequences names it. The least of many keys is small, so it is mixed once more:
    otherwise large clusters would come first.

    Parameters
    ----------
    cluster : int64[n], number of each record's cluster.
    sequence_key : uint64[n], a hash of each record's sequence.
    """
    least = np.full(int(cluster.max(initial=-1)) + 1, np.iinfo(np.uint64).max, dtype=np.uint64)
    np.minimum.at(least, cluster, sequence_key)
    return mix64(least ^ _CLUSTER_KEY)


def cluster_pool(rows: Int, cluster: Int, keys: Key) -> ClusterPool:
    """Group rows by cluster.

    Parameters
    ----------
    rows : int64[n], in keyed order, which the members of a cluster keep.
    cluster : int64[], number of the cluster of every record of the corpus.
    keys : uint64[], of `cluster_keys`; the clusters come in this order.
    """
    number = cluster[rows]
    order = np.lexsort((number, keys[number]))
    grouped, number = rows[order], number[order]
    new = np.ones(len(number), dtype=np.bool_)
    new[1:] = number[1:] != number[:-1]
    begin = np.flatnonzero(new)
    start = np.append(begin, len(number))
    turn = (mix64(keys[number[begin]] ^ _TURN_KEY) % np.diff(start).astype(np.uint64)).astype(np.int64)
    return ClusterPool(grouped, start, turn)
