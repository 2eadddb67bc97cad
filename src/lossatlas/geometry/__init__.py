"""Measure the landscape at a point."""

from lossatlas.geometry._density import SpectralDensity as SpectralDensity
from lossatlas.geometry._density import spectral_density as spectral_density
from lossatlas.geometry._spectrum import Spectrum as Spectrum
from lossatlas.geometry._spectrum import spectrum as spectrum
from lossatlas.geometry._trace import TraceEstimate as TraceEstimate
from lossatlas.geometry._trace import trace as trace
