"""Every adapter is one for mypy: checked where the types are, not run."""

from hypergen.image import adapter as image
from hypergen.modality import Adapter
from hypergen.text import adapter as text
from tests.toy import adapter as toy

ADAPTERS: tuple[Adapter, ...] = (text, image, toy)
