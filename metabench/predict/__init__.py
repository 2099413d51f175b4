"""From a run or a search to predictions: learn new classes from a few pictures, and name others."""

from metabench.predict.classifier import COVERAGE as COVERAGE
from metabench.predict.classifier import FewShotClassifier as FewShotClassifier
from metabench.predict.classifier import load as load
from metabench.predict.export import export_model as export_model
from metabench.predict.places import class_folders as class_folders
from metabench.predict.places import find_pictures as find_pictures
