"""What no library has: small numerical pieces that know nothing of networks."""

from lossatlas.numerics._affine_in import is_affine_in as is_affine_in
from lossatlas.numerics._control_weights import CurveKind as CurveKind
from lossatlas.numerics._control_weights import bezier_speed as bezier_speed
from lossatlas.numerics._control_weights import control_weights as control_weights
from lossatlas.numerics._jaxpr import ClosedJaxpr as ClosedJaxpr
from lossatlas.numerics._jaxpr import Var as Var
from lossatlas.numerics._jaxpr import evaluate as evaluate
from lossatlas.numerics._jaxpr import flat_body as flat_body
from lossatlas.numerics._jaxpr import flat_jaxpr as flat_jaxpr
from lossatlas.numerics._jaxpr import literal_value as literal_value
from lossatlas.numerics._jaxpr import shape_of as shape_of
