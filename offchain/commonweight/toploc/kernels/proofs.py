"""Compiled twins of `topk`, `field` and `proofs.verify`: the largest magnitudes, polynomials, and both together.

One file: numba keeps what it compiled by the date of a function's own file, whatever that function calls elsewhere.

Arithmetic over GF(65497) is done in float64 on whole numbers: products of two residues stay below 2**32, sums of a
hundred and more of them below 2**53, so that many products share one reduction. A reduced value lies in 0..P; ``P``
itself becomes 0 at the end.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic

from ...core.lanes import aligned
from ..field import GIANT, P, inverses

EXACT = {"cache": True, "nogil": True, "boundscheck": False, "error_model": "numpy"}
WHOLE = {**EXACT, "fastmath": {"contract", "reassoc"}}
"""For float64 that only ever holds whole numbers below 2**53: sums and fused products are exact in any order."""

_Q = 1.0 / P

# -- the k largest magnitudes -----------------------------------------------------------------------------------


WIDTH = 64
DIRECT = 1 << 13
"""Rows up to this long are gone through value by value; of longer ones, only blocks that hold something."""
TILE = 128
"""Values that are counted together; so many that a loop over them is unrolled, and 16 bits count them."""


@njit(**EXACT)
def _block_maxima(row, maxima):
    """Largest magnitude of every `WIDTH` values; ``row`` uint16 ``(n,)``; a ragged tail is a block of its own."""
    full = row.size // WIDTH
    for b in range(full):
        best = np.uint16(0)
        for j in range(b * WIDTH, b * WIDTH + WIDTH):
            best = max(best, np.uint16(row[j] & np.uint16(0x7FFF)))
        maxima[b] = best
    if full * WIDTH < row.size:
        best = np.uint16(0)
        for j in range(full * WIDTH, row.size):
            best = max(best, np.uint16(row[j] & np.uint16(0x7FFF)))
        maxima[full] = best


@njit(**EXACT)
def _strided_maxima(row, maxima):
    """Largest magnitude of every ``maxima.size``-th value, from each start: no block, but found in lanes."""
    maxima[:] = 0
    for start in range(0, row.size, maxima.size):
        part = row[start : start + maxima.size]
        for j in range(part.size):
            maxima[j] = max(maxima[j], np.uint16(part[j] & np.uint16(0x7FFF)))


@njit(**EXACT)
def _at_least(tiles, bound):
    """How many of some tiles of 15-bit values reach ``bound``."""
    count = 0
    for start in range(0, tiles.size, TILE):
        part, found = tiles[start : start + TILE], np.uint16(0)
        for i in range(TILE):
            found = np.uint16(found + np.uint16(part[i] >= bound))
        count += np.int64(found)
    return count


@njit(**EXACT)
def _tiled(values, size):
    """The first ``size`` values in whole tiles, filled up with zeros; there is room for a tile more than that."""
    whole = -(-size // TILE) * TILE
    values[size:whole] = 0
    return values[:whole]


@njit(**EXACT)
def _digit(tiles, k, found, shift):
    """The largest of ``found`` plus 0 to 3 times ``1 << shift`` that ``k`` values reach: three counts in one pass."""
    one, two, three = found + (1 << shift), found + (2 << shift), found + (3 << shift)
    b1, b2, b3 = np.uint16(one), np.uint16(two), np.uint16(three)
    c1 = c2 = c3 = 0
    for start in range(0, tiles.size, TILE):
        part = tiles[start : start + TILE]
        n1 = n2 = n3 = np.uint16(0)
        for i in range(TILE):
            n1 = np.uint16(n1 + np.uint16(part[i] >= b1))
            n2 = np.uint16(n2 + np.uint16(part[i] >= b2))
            n3 = np.uint16(n3 + np.uint16(part[i] >= b3))
        c1, c2, c3 = c1 + np.int64(n1), c2 + np.int64(n2), c3 + np.int64(n3)
    return found + ((np.int64(c1 >= k) + np.int64(c2 >= k) + np.int64(c3 >= k)) << shift)


@njit(**EXACT)
def _kth(tiles, k):
    """k-th largest of 15-bit values, two bits at a time: passes of counting, which run in lanes."""
    found = 0
    for shift in range(13, 0, -2):
        found = _digit(tiles, k, found, shift)
    return np.uint16(found + (_at_least(tiles, np.uint16(found + 1)) >= k))


@njit(**EXACT)
def _keep(row, first, last, bound, count, found):
    """Add the places of what reaches ``bound``; every place is written, and kept by counting on."""
    part = row[first:last]
    for j in range(part.size):
        found[count] = first + j
        count += np.uint16(part[j] & np.uint16(0x7FFF)) >= bound
    return count


@intrinsic
def _trailing(context, word):
    """Zero bits below the lowest one of a word; 64 of zero."""

    def generate(context, builder, signature, args):
        return builder.cttz(args[0], context.get_constant(types.boolean, False))

    return types.uint64(types.uint64), generate


@intrinsic
def _reaching(context, address, bound):
    """Which of the 64 values of 16 bits at an address reach ``bound``: bit j of a word for value j."""
    short, lanes = ir.IntType(16), 64

    def generate(context, builder, signature, args):
        vector = ir.VectorType(short, lanes)
        values = builder.load(builder.inttoptr(args[0], vector.as_pointer()), align=2)
        alone = builder.insert_element(ir.Constant(vector, ir.Undefined), args[1], ir.Constant(short, 0))
        zeros = ir.Constant(ir.VectorType(ir.IntType(32), lanes), None)
        bounds = builder.shuffle_vector(alone, ir.Constant(vector, ir.Undefined), zeros)
        return builder.bitcast(builder.icmp_unsigned(">=", values, bounds), ir.IntType(64))

    return types.uint64(types.uint64, types.uint16), generate


@njit(**EXACT)
def _few(row, k, room):
    """The places, in order, of all values of a short row that can be among the k largest; how many they are."""
    maxima, found, magnitudes = room
    n = row.size
    for j in range(n):
        magnitudes[j] = np.uint16(row[j] & np.uint16(0x7FFF))
    if n < 8 * k:
        bound = _kth(_tiled(magnitudes, n), k)
    else:
        # Of k groups of values each one's largest reaches this bound, so the k-th largest of all does too.
        _strided_maxima(row, maxima[: 4 * k])
        bound = _kth(_tiled(maxima, 4 * k), k)
    count = 0
    for first in range(0, n, 64):
        word = _reaching(types.uint64(magnitudes[first:].ctypes.data), bound)
        if n - first < 64:
            word &= (np.uint64(1) << np.uint64(n - first)) - np.uint64(1)
        while word != 0:
            found[count] = first + np.int64(_trailing(word))
            count += 1
            word &= word - np.uint64(1)
    return count


@njit(**EXACT)
def _many(row, k, room):
    """The same of a long row: only blocks that hold something are gone through."""
    maxima, found = room[0], room[1]
    n = row.size
    blocks = -(-n // WIDTH)
    _block_maxima(row, maxima)
    size, groups = blocks, maxima
    if blocks < 4 * k:
        size, groups = 4 * k, maxima[blocks:]
        _strided_maxima(row, groups[:size])
    bound = _kth(_tiled(groups, size), k) if n >= size else np.uint16(0)
    count = 0
    for b in range(blocks):
        if maxima[b] >= bound:
            count = _keep(row, b * WIDTH, min(n, b * WIDTH + WIDTH), bound, count, found)
    return count


@njit(**EXACT)
def _room(n, k):
    """Scratch of `select` for rows of ``n`` values: maxima, found, magnitudes."""
    maxima = aligned(2 * (-(-n // WIDTH) + 4 * k + TILE)).view(np.uint16)
    found, magnitudes = aligned(8 * (n + 1)).view(np.int64), aligned(2 * (n + TILE)).view(np.uint16)
    return maxima, found, magnitudes


@njit(**EXACT)
def select(row, k, room, out):
    """Indices of the k largest magnitudes, ascending; among equals the smaller index. ``room`` is `_room`'s."""
    count = _few(row, k, room) if row.size <= DIRECT else _many(row, k, room)
    found, magnitudes = room[1], room[2]
    for i in range(count):
        magnitudes[i] = row[found[i]] & np.uint16(0x7FFF)
    tiles = _tiled(magnitudes, count)
    last = _kth(tiles, k)
    ties = k - (_at_least(tiles, np.uint16(last + 1)) if last < 0x7FFF else 0)
    at = 0
    for i in range(count):
        if at == k:
            break
        equal = magnitudes[i] == last
        out[at] = found[i]
        at += (magnitudes[i] > last) | (equal & (ties > 0))
        ties -= np.int64(equal)


@njit(**EXACT)
def _sift(keys, ids, hole, size, key, index):
    """Heap of the smallest key on top: fill the hole from below, then let the new entry rise, as libstdc++ does."""
    top, child = hole, hole
    while child < (size - 1) // 2:
        child = 2 * (child + 1)
        if keys[child] > keys[child - 1]:
            child -= 1
        keys[hole], ids[hole] = keys[child], ids[child]
        hole = child
    if size & 1 == 0 and child == (size - 2) // 2:
        child = 2 * (child + 1)
        keys[hole], ids[hole] = keys[child - 1], ids[child - 1]
        hole = child - 1
    parent = (hole - 1) // 2
    while hole > top and keys[parent] > key:
        keys[hole], ids[hole] = keys[parent], ids[parent]
        hole = parent
        parent = (hole - 1) // 2
    keys[hole], ids[hole] = key, index


@njit(**EXACT)
def _select_heap(row, k, maxima, keys, ids, out):
    """The k largest as torch's CPU top-k leaves them among equals (a partial sort), in any order."""
    n = row.size
    for i in range(k):
        keys[i], ids[i] = row[i] & 0x7FFF, i
    for parent in range((k - 2) // 2, -1, -1):
        _sift(keys, ids, parent, k, keys[parent], ids[parent])
    _block_maxima(row, maxima)
    for b in range(k // WIDTH, -(-n // WIDTH)):
        if maxima[b] > keys[0]:
            for j in range(max(k, b * WIDTH), min(n, b * WIDTH + WIDTH)):
                magnitude = row[j] & 0x7FFF
                if magnitude > keys[0]:
                    _sift(keys, ids, 0, k, magnitude, j)
    out[:] = ids[:k]


@njit(**EXACT)
def top(rows, k, heap):
    """Indices of each row's k largest magnitudes, int64 ``(chunks, k)``; ``rows`` uint16 ``(chunks, n)``."""
    count, n = rows.shape
    out = np.empty((count, k), dtype=np.int64)
    room = _room(n, k)
    keys, ids = np.empty(k, dtype=np.int64), np.empty(k, dtype=np.int64)
    for c in range(count):
        if heap:
            _select_heap(rows[c], k, room[0], keys, ids, out[c])
        else:
            select(rows[c], k, room, out[c])
    return out


@njit(**EXACT)
def _narrow(wide, out):
    """bfloat16 patterns of float32 patterns: rounded to even, NaN to the one that torch writes."""
    for j in range(out.size):
        bits = wide[j]
        rounded = np.uint32(
            np.uint32(bits + np.uint32(0x7FFF)) + np.uint32((bits >> np.uint32(16)) & np.uint32(1))
        )
        odd = np.uint32(bits & np.uint32(0x7FFFFFFF)) > np.uint32(0x7F800000)
        out[j] = np.uint16(0x7FC0) if odd else np.uint16(rounded >> np.uint32(16))


@njit(**EXACT)
def _chunk(bits, wide, c, chunk, row):
    """Patterns of bfloat16 of one chunk; ``row`` has room for those of a whole one.

    ``bits`` uint16 ``(tokens, dim)`` of bfloat16, or none of them: then ``wide`` float32 ``(tokens, dim)``.
    """
    if bits.shape[0] == 0:
        part = wide[c * chunk : (c + 1) * chunk].reshape(-1).view(np.uint32)
        out = row[: part.size]
        _narrow(part, out)
        return out
    return bits[c * chunk : (c + 1) * chunk].reshape(-1)


@njit(**EXACT)
def tops(bits, wide, chunk, indices, values):
    """Indices of each chunk's k largest magnitudes and the patterns there, into int64 ``(chunks, k)`` each.

    ``bits`` and ``wide`` as for `_chunk`.
    """
    chunks, k = indices.shape
    n = chunk * max(bits.shape[1], wide.shape[1])
    room, patterns = _room(n, k), aligned(2 * n).view(np.uint16)
    for c in range(chunks):
        row = _chunk(bits, wide, c, chunk, patterns)
        select(row, k, room, indices[c])
        for i in range(k):
            values[c, i] = row[indices[c, i]]


# -- polynomials ---------------------------------------------------------------------------------------------------


@njit(inline="always")
def _reduce(value):
    return value - np.floor(value * _Q) * P


@njit(inline="always")
def _whole(value):
    found = np.int64(value)
    return np.int64(0) if found == P else found


@njit(**EXACT)
def _floats(count):
    return aligned(8 * count).view(np.float64)


@njit(**EXACT)
def _table(count):
    return _floats(GIANT * count).reshape((GIANT, count))


@njit(**WHOLE)
def _powers(x, powers):
    """``x**1 .. x**16`` in the rows of ``powers`` ``(16, n)``."""
    powers[0] = x
    for b in range(1, GIANT):
        below, row = powers[b - 1], powers[b]
        for i in range(x.size):
            row[i] = _reduce(below[i] * x[i])


@njit(**WHOLE)
def _horner(c, powers, out):
    """Values of the polynomial ``c`` (its length a multiple of 16) at the points that ``powers`` belong to.

    Sixteen coefficients at a time, so that a value is loaded, reduced and stored once for all of them.
    """
    p1, p2, p3, p4, p5, p6, p7, p8 = (
        powers[0],
        powers[1],
        powers[2],
        powers[3],
        powers[4],
        powers[5],
        powers[6],
        powers[7],
    )
    p9, p10, p11, p12, p13, p14, p15, p16 = (
        powers[8],
        powers[9],
        powers[10],
        powers[11],
        powers[12],
        powers[13],
        powers[14],
        powers[15],
    )
    out[:] = 0
    for at in range(c.size - GIANT, -1, -GIANT):
        q = c[at : at + GIANT]
        c0, c1, c2, c3, c4, c5, c6, c7 = q[0], q[1], q[2], q[3], q[4], q[5], q[6], q[7]
        c8, c9, c10, c11, c12, c13, c14, c15 = q[8], q[9], q[10], q[11], q[12], q[13], q[14], q[15]
        for i in range(out.size):
            low = (
                c0 + c1 * p1[i] + c2 * p2[i] + c3 * p3[i] + c4 * p4[i] + c5 * p5[i] + c6 * p6[i] + c7 * p7[i]
            )
            high = c8 * p8[i] + c9 * p9[i] + c10 * p10[i] + c11 * p11[i] + c12 * p12[i] + c13 * p13[i]
            rest = c14 * p14[i] + c15 * p15[i] + out[i] * p16[i]
            out[i] = _reduce(low + high + rest)


@njit(**WHOLE)
def _product(x, old, new):
    """Coefficients of prod(t - x_i), ascending: the first ``x.size + 1`` of the returned one of two buffers.

    Four roots at a time; the buffers have 4 zeros in front, which are left out of what is returned.
    """
    old[:] = 0
    new[:] = 0
    old[4] = 1
    k = x.size
    full = k // 4 * 4
    for i in range(0, full, 4):
        s1, p1 = P - _reduce(x[i] + x[i + 1]), _reduce(x[i] * x[i + 1])
        s2, p2 = P - _reduce(x[i + 2] + x[i + 3]), _reduce(x[i + 2] * x[i + 3])
        c3, c2 = _reduce(s1 + s2), _reduce(p1 + p2 + s1 * s2)
        c1, c0 = _reduce(s1 * p2 + s2 * p1), _reduce(p1 * p2)
        size = i + 5
        o4, o3, o2, o1 = old[:size], old[1 : size + 1], old[2 : size + 2], old[3 : size + 3]
        same, to = old[4 : size + 4], new[4 : size + 4]
        for j in range(size):
            to[j] = _reduce(o4[j] + c3 * o3[j] + c2 * o2[j] + c1 * o1[j] + c0 * same[j])
        old, new = new, old
    for i in range(full, k):
        negative = P - x[i]
        below, same, to = old[3 : i + 5], old[4 : i + 6], new[4 : i + 6]
        for j in range(to.size):
            to[j] = _reduce(below[j] + negative * same[j])
        old, new = new, old
    return old[4:]


@njit(**WHOLE)
def _interpolate(x, y, inverse, powers, old, new, padded, weights, sums, out):
    """One polynomial: see `field.interpolate` for the method."""
    k = x.size
    m = _product(x, old, new)
    padded[:] = 0
    for j in range(k):
        padded[j] = _reduce((j + 1.0) * m[j + 1])
    _powers(x, powers)
    _horner(padded, powers, weights)
    for i in range(k):
        weights[i] = _reduce(y[i] * inverse[_whole(weights[i])])
    giant = powers[GIANT - 1]
    for at in range(0, k, GIANT):
        for b in range(min(GIANT, k - at)):
            total = 0.0
            if b == 0:
                for i in range(k):
                    total += weights[i]
            else:
                row = powers[b - 1]
                for i in range(k):
                    total += weights[i] * row[i]
            sums[at + b] = _reduce(total)
        for i in range(k):
            weights[i] = _reduce(weights[i] * giant[i])
    weights[:] = 0
    for s in range(k):
        factor, shifted, left = sums[s], m[s + 1 : k + 1], weights[: k - s]
        for j in range(left.size):
            left[j] += factor * shifted[j]
    for j in range(k):
        out[j] = _whole(_reduce(weights[j]))


@njit(**WHOLE)
def interpolate(x, y, inverse, out):
    """Each row's polynomial; ``x`` below P and ``y`` int64 ``(chunks, k)``; ``out`` the same."""
    chunks, k = x.shape
    points, values, weights, sums = _floats(k), _floats(k), _floats(k), _floats(k)
    powers, old, new = _table(k), _floats(k + 9), _floats(k + 9)
    padded = _floats(-(-k // GIANT) * GIANT)
    for c in range(chunks):
        for i in range(k):
            points[i] = x[c, i]
            values[i] = y[c, i]
        _interpolate(points, values, inverse, powers, old, new, padded, weights, sums, out[c])


@njit(**WHOLE)
def evaluate(coefficients, x, out):
    """Each row's polynomial at the row's points; int64 ``(chunks, k)``, ``(chunks, n)``; ``out`` int64 as ``x``."""
    chunks, k = coefficients.shape
    n = x.shape[1]
    points, values, powers = _floats(n), _floats(n), _table(n)
    padded = _floats(-(-k // GIANT) * GIANT)
    padded[:] = 0
    for c in range(chunks):
        for j in range(k):
            padded[j] = coefficients[c, j]
        for i in range(n):
            points[i] = x[c, i]
        _powers(points, powers)
        _horner(padded, powers, values)
        for i in range(n):
            out[c, i] = _whole(values[i])


@lru_cache(maxsize=1)
def inverse_table():
    """`field.inverses` as float64."""
    return inverses().astype(np.float64)


# -- both together -------------------------------------------------------------------------------------------------


@njit(**WHOLE)
def judge(bits, wide, chunk, moduli, coefficients, every, worst):
    """Statistics of a sequence, as `proofs.ProofStats` defines them.

    ``bits`` and ``wide`` as for `_chunk`; ``moduli`` ``(chunks,)`` and ``coefficients`` ``(chunks, k)`` int64; every
    ``every``-th top index has a control point; ``worst`` is the mantissa error without one equal exponent. Returns the
    largest number of exponents that differ, mean mantissa error, number of signs that differ and of control points
    that look like a top value; the sum of scores; the largest magnitude.
    """
    chunks, k = coefficients.shape
    n = chunk * max(bits.shape[1], wide.shape[1])
    controls = -(-k // every)
    room, patterns = _room(n, k), aligned(2 * n).view(np.uint16)
    top, mine = np.empty(k, dtype=np.int64), np.empty(k, dtype=np.int64)
    points, values, powers = _floats(k + controls), _floats(k + controls), _table(k + controls)
    padded = _floats(-(-k // GIANT) * GIANT)
    padded[:] = 0
    highest = most_exponents = most_signs = most_hits = 0
    most_mean = total = 0.0
    for c in range(chunks):
        modulus, row = moduli[c], _chunk(bits, wide, c, chunk, patterns)
        select(row, k, room, top)
        for i in range(k):
            points[i] = top[i]
            padded[i] = coefficients[c, i]
        if n > modulus:
            for i in range(k):
                points[i] = top[i] % modulus
        for i in range(controls):
            control = points[i * every] + modulus // 2
            points[k + i] = control - modulus if control >= modulus else control
        _powers(points, powers)
        _horner(padded, powers, values)
        for i in range(k):
            mine[i] = row[top[i]]
        low, high = 255, 0
        exponents = errors = signs = 0
        for i in range(k):
            own, claimed = mine[i], _whole(values[i])
            highest = max(highest, own & 0x7FFF)
            exponent = own >> 7 & 0xFF
            low, high = min(low, exponent), max(high, exponent)
            other = (own ^ claimed) & 0x7F80 != 0
            exponents += other
            errors += 0 if other else abs((own & 0x7F) - (claimed & 0x7F))
            signs += own >> 15 != claimed >> 15
        hits = 0
        for i in range(k, k + controls):
            exponent = _whole(values[i]) >> 7 & 0xFF
            hits += low <= exponent <= high
        mean = errors / (k - exponents) if exponents < k else worst
        most_exponents, most_mean = max(most_exponents, exponents), max(most_mean, mean)
        most_signs, most_hits = max(most_signs, signs), max(most_hits, hits)
        total += mean + 8 * exponents / k
    return most_exponents, most_mean, most_signs, most_hits, total, highest
