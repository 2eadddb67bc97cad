"""What pages of the application link to: reports and model files of the folder of runs, and the scripts of figures."""

import pathlib

from fastapi import HTTPException
from fastapi.responses import FileResponse, Response
from nicegui import app

from lossatlas.workbench import UPLOADS, page_script


ASSETS = pathlib.Path(__file__).parent / "assets"
# What is served of the folder of runs; a browser shows pages and keeps the rest.
_SERVED = {".html": None, ".safetensors": "attachment"}


def add_routes(root: pathlib.Path) -> None:
    """Serve the files of a folder of runs below `/files/`, and ours below `/assets/`."""
    app.add_static_files("/assets", ASSETS)

    @app.get("/scripts/{name}.js")
    def scripts(name: str) -> Response:
        text = page_script(name)
        if text is None:
            raise HTTPException(404)
        return Response(text, media_type="text/javascript", headers={"cache-control": "max-age=3600"})

    @app.get("/files/{path:path}")
    def files(path: str) -> FileResponse:
        place, top = (root / path).resolve(), root.resolve()
        inside = place.relative_to(top).parts if place.is_relative_to(top) else ()
        if not inside or inside[0] == UPLOADS or place.suffix not in _SERVED or not place.is_file():
            raise HTTPException(404)
        kind = _SERVED[place.suffix]
        return FileResponse(place, filename=place.name, content_disposition_type=kind or "inline")
