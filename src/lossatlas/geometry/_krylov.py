"""A block Krylov basis on the host, with full two-pass reorthogonalisation."""

from collections.abc import Callable

import numpy as np


Product = Callable[[np.ndarray], np.ndarray]


class KrylovBasis:
    r"""Orthonormal rows $V$, the next block $W$, and the relation $A V^\top = V^\top H + W^\top B$.

    $A$ is the operator restricted to the complement of the `locked` rows. The relation survives a thick restart
    (Wu and Simon 2000), so the residual norms $\|B y\|$ of the Ritz pairs are those of the true operator. A
    direction in which the Krylov space ends is replaced by a random one: invariant subspaces are no obstacle.
    """

    def __init__(
        self, product: Product, size: int, limit: int, block: np.ndarray, locked: np.ndarray, rng: np.random.Generator
    ):
        self.product, self.locked, self.rng = product, locked, rng
        self.free = size - len(locked)  # dimension of the complement
        self.limit = min(limit, self.free)
        self.rows = np.empty((self.limit + len(block), size), block.dtype)
        self.images = np.empty((self.limit, size), block.dtype)  # of the rows of V, as they came
        self.projected = np.zeros((len(self.rows), len(self.rows)))
        self.coupling = np.zeros((0, 0))
        self.known = 0  # rows whose image is known: V
        self.ahead = 0  # rows of W
        self.scale = 0.0  # largest norm of an image so far
        self.num_steps = self.num_products = 0
        for vector in block:
            self._append(vector)

    @property
    def is_exhausted(self) -> bool:
        """Whether V spans the whole complement: its Ritz pairs are then exact."""
        return self.ahead == 0

    @property
    def is_full(self) -> bool:
        """Whether a further block does not fit without a restart."""
        return self.known + self.ahead > self.limit

    def _clean(self, vector: np.ndarray, upto: int) -> tuple[np.ndarray, np.ndarray]:
        """Two passes of classical Gram-Schmidt, which suffice (Giraud et al. 2005); with the coefficients."""
        total = np.zeros(upto)
        for _ in range(2):
            if len(self.locked):
                vector = vector - (self.locked @ vector) @ self.locked
            part = self.rows[:upto] @ vector
            vector = vector - part @ self.rows[:upto]
            total += part
        return vector, total

    def _append(self, vector: np.ndarray) -> float:
        """Orthonormalise a vector, store it in W, and return the norm that was left of it (0: replaced or dropped)."""
        upto = self.known + self.ahead
        if upto == self.free:
            return 0.0
        before = float(np.linalg.norm(vector))
        vector, _ = self._clean(vector, upto)
        left = norm = float(np.linalg.norm(vector))
        if norm <= 100 * np.finfo(vector.dtype).eps * max(before, self.scale):
            left = 0.0
            vector = self.rng.standard_normal(len(vector)).astype(vector.dtype)
            vector, _ = self._clean(vector, upto)
            norm = float(np.linalg.norm(vector))
        # What is left after strong cancellation is no longer orthogonal to rounding, so it is cleaned again.
        vector, _ = self._clean(vector / norm, upto)
        self.rows[upto] = vector / np.linalg.norm(vector)
        self.ahead += 1
        return left

    def expand(self, left: int | None = None) -> None:
        """Multiply the block W, take it into V, and find the next one; `ahead` products, whatever is `left`."""
        del left
        start, stop = self.known, self.known + self.ahead
        images = []
        for i in range(start, stop):
            image = self.images[i] = self.product(self.rows[i])
            self.scale = max(self.scale, float(np.linalg.norm(image)))
            image, coefficients = self._clean(image, stop)
            self.projected[i, :stop] = coefficients
            self.projected[:start, i] = coefficients[:start]
            images.append(image)
        corner = self.projected[start:stop, start:stop]
        self.projected[start:stop, start:stop] = 0.5 * (corner + corner.T)
        self.known, self.ahead = stop, 0
        self.num_steps += 1
        self.num_products += len(images)
        coupling = np.zeros((len(images), stop))
        for i, image in enumerate(images):
            filled = self.ahead
            # The coefficients in the rows appended in this loop belong to the coupling.
            coupling[:filled, start + i] = self.rows[stop : stop + filled] @ image
            norm = self._append(image)
            if self.ahead > filled:
                coupling[filled, start + i] = norm
        self.coupling = coupling[: self.ahead]

    def ritz(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Ritz values in ascending order, their coefficients (columns) and residual norms."""
        values, columns = np.linalg.eigh(self.projected[: self.known, : self.known])
        return values, columns, np.linalg.norm(self.coupling @ columns, axis=0)

    def vectors(self, columns: np.ndarray) -> np.ndarray:
        """The vectors (rows) of some coefficient columns."""
        return columns.T.astype(self.rows.dtype) @ self.rows[: self.known]

    def vector_images(self, columns: np.ndarray) -> np.ndarray:
        """What the whole operator, locked part included, makes of these vectors; without a product."""
        return columns.T.astype(self.rows.dtype) @ self.images[: self.known]

    def restart(self, values: np.ndarray, columns: np.ndarray) -> None:
        """Keep only some Ritz pairs; the Krylov relation stays exact."""
        kept, known, ahead = len(values), self.known, self.ahead
        ahead_rows = self.rows[known : known + ahead].copy()
        self.rows[:kept], self.images[:kept] = self.vectors(columns), self.vector_images(columns)
        self.rows[kept : kept + ahead] = ahead_rows
        self.coupling = self.coupling @ columns
        self.projected[:] = 0.0
        self.projected[np.arange(kept), np.arange(kept)] = values
        self.known = kept
