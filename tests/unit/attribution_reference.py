"""A slow, independent account of integrated gradients in plain NumPy, against which the engine is
tested.

Nothing here is shared with `dr_lib`: a small convolutional net with its derivative written out by
hand, float64 throughout, one image, one point, one quantity at a time.
"""

import numpy as np


class Net:
    """conv(3×3, "same", stride s) → ReLU → [cut] → max-pool 2 → dense → softmax, weights given
    as arrays.
    """

    def __init__(self, kernel, bias, dense, dense_bias, stride=1):
        self.kernel, self.bias = np.asarray(kernel, np.float64), np.asarray(bias, np.float64)
        self.dense, self.dense_bias = (
            np.asarray(dense, np.float64),
            np.asarray(dense_bias, np.float64),
        )
        self.stride = stride

    def before_relu(self, x):
        size = -(-x.shape[0] // self.stride)
        total = max((size - 1) * self.stride + 3 - x.shape[0], 0)
        padded = np.pad(x, ((total // 2, total - total // 2),) * 2 + ((0, 0),))
        z = np.zeros((size, size, self.kernel.shape[-1]))
        for i in range(size):
            for j in range(size):
                patch = padded[
                    i * self.stride : i * self.stride + 3, j * self.stride : j * self.stride + 3
                ]
                z[i, j] = np.tensordot(patch, self.kernel, axes=3) + self.bias
        return z

    def units(self, x):
        return np.maximum(self.before_relu(x), 0)

    def units_vjp(self, x, cotangent):
        """Gradient of sum(cotangent · units) by x."""
        size = -(-x.shape[0] // self.stride)
        total = max((size - 1) * self.stride + 3 - x.shape[0], 0)
        back = np.zeros((x.shape[0] + total, x.shape[1] + total, x.shape[2]))
        flow = cotangent * (self.before_relu(x) > 0)
        for i in range(size):
            for j in range(size):
                rows, columns = (
                    slice(i * self.stride, i * self.stride + 3),
                    slice(j * self.stride, j * self.stride + 3),
                )
                back[rows, columns] += self.kernel @ flow[i, j]
        first = total // 2
        return back[first : first + x.shape[0], first : first + x.shape[1]]

    def logits(self, h):
        return self._pooled(h).ravel() @ self.dense + self.dense_bias

    def stages(self, h):
        logits = self.logits(h)
        p = np.exp(logits - logits.max())
        return p / p.sum()

    def stages_vjp(self, h, stage):
        """Gradient of one stage's probability by the units."""
        p = self.stages(h)
        by_logits = p[stage] * ((np.arange(len(p)) == stage) - p)
        by_pooled = (self.dense @ by_logits).reshape(self._pooled(h).shape)
        out = np.zeros_like(h)
        for i, j, c in np.ndindex(by_pooled.shape):
            window = h[2 * i : 2 * i + 2, 2 * j : 2 * j + 2, c]
            y, x = np.unravel_index(window.argmax(), window.shape)
            out[2 * i + y, 2 * j + x, c] += by_pooled[i, j, c]
        return out

    def image_vjp(self, x, stage):
        return self.units_vjp(x, self.stages_vjp(self.units(x), stage))

    @staticmethod
    def _pooled(h):
        n = h.shape[0] // 2
        return h[: 2 * n, : 2 * n].reshape(n, 2, n, 2, -1).max(axis=(1, 3))


def integrated(gradient, x, baseline, alphas, weights):
    """(x − x') · Σ_k w_k · gradient(x' + α_k (x − x')), one point after another."""
    x, baseline = np.asarray(x, np.float64), np.asarray(baseline, np.float64)
    return (x - baseline) * sum(
        w * gradient(baseline + a * (x - baseline)) for a, w in zip(alphas, weights, strict=True)
    )


def midpoints(points):
    return (np.arange(points) + 0.5) / points, np.full(points, 1 / points)
