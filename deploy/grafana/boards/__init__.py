"""The dashboards, one a file."""

from deploy.grafana.board import Board
from deploy.grafana.boards import cost, event_log, overview, pool, previews

BOARDS: tuple[Board, ...] = (overview.BOARD, pool.BOARD, previews.BOARD, event_log.BOARD, cost.BOARD)
