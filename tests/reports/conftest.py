"""How tests look into the reports' figures."""

import base64
import io
from xml.etree import ElementTree

import numpy as np
import pytest


def _decode(uri):
    from PIL import Image

    return Image.open(io.BytesIO(base64.b64decode(uri.split(",", 1)[1])))


@pytest.fixture(scope="session")
def decode():
    """Turn a data address into a picture."""
    return _decode


@pytest.fixture(scope="session")
def pictures():
    """Turn an SVG document into its rasters: grey levels or palette entries, in order."""

    def read(svg):
        return [
            np.asarray(_decode(element.attrib["href"]))
            for element in ElementTree.fromstring(svg).iter("{http://www.w3.org/2000/svg}image")
        ]

    return read
