"""An MCP server with one tool, for `mcp_echo.toml`: it needs the packages mcp and uvicorn."""

from __future__ import annotations

import argparse

import uvicorn
from mcp.server import MCPServer

server = MCPServer("echo")


@server.tool()
def echo(text: str) -> str:
    """Say the same."""
    return text


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="An MCP server with one tool.")
    parser.add_argument("--port", type=int, default=8000)
    port = parser.parse_args().port
    uvicorn.run(server.streamable_http_app(), port=port, log_level="warning")
