"""The smallest network of each task and version of ultralytics."""
import functools

from measuring import Network, image
from ultralytics.nn import tasks

TASKS = {"cls": "ClassificationModel", "seg": "SegmentationModel", "pose": "PoseModel", "obb": "OBBModel",
         "": "DetectionModel"}
NAMES = ("yolov3-tiny", "yolov5n", "yolov6n", "yolov8n", "yolov8n-cls", "yolov8n-seg", "yolov8n-pose", "yolov8n-obb",
         "yolov8n-ghost",
         "yolov8n-p2", "yolov9t", "yolov10n", "yolo11n", "yolo11n-cls", "yolo11n-seg", "yolo11n-pose", "yolo11n-obb",
         "yolo12n", "yolo12n-cls",
         "yolo26n", "yolo26n-cls", "yolo26n-seg", "yolo26n-pose")


def make(name: str):
    kind = next(kind for task, kind in TASKS.items() if task in name.partition("-")[2])
    return getattr(tasks, kind)(f"{name}.yaml", verbose=False)


NETWORKS = {name: Network(functools.partial(make, name), image(64)) for name in NAMES}
