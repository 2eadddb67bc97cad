# pyright: reportAttributeAccessIssue=false

"""The curve of size against change."""

from lossatlas.figures import shrinking_figure


def _size(count, change, fresh, accuracy):
    return {"shape": f"4-{count}", "num_parameters": count, "change": change, "fresh_change": fresh,
            "accuracy": accuracy, "loss": accuracy}  # fmt: skip


def _tables(fresh=None, accuracy=None):
    curve = [_size(100, 0.0, fresh, accuracy), _size(40, 0.3, fresh, accuracy), _size(10, 2.0, fresh, accuracy)]
    return {"curve": curve, "before": curve[0], "chosen": curve[1], "tolerance": 0.5}


def test_changes_and_accuracy_share_the_axis_of_sizes():
    figure = shrinking_figure(_tables(0.1, 0.9))
    names = [trace.name for trace in figure.data]
    assert names[:3] == ["largest on the rows seen", "covers 95 % of new rows", "this model"]
    assert "accuracy on the rows held back" in names
    assert list(figure.data[0].x) == [100, 40, 10]
    assert list(figure.data[0].y) == [0.002, 0.3, 2.0]  # what is exact stands at a thousandth of the largest
    assert figure.layout.xaxis2.type == figure.layout.yaxis.type == "log"


def test_without_targets_and_new_rows_the_change_stands_alone():
    figure = shrinking_figure(_tables(), compact=True)
    assert [trace.name for trace in figure.data] == ["largest on the rows seen", "this model"]
    assert figure.layout.shapes[0].y0 == 0.5
