"""The names of the files and folders that a run's folder holds."""

RECORD_FILE = "run.json"
GRID_FILE, TRACE_FILE, CHAINS_FILE = "grid.png", "trace.png", "chains.npz"
ANIMATION_FILE = "animation.webp"
# What a folder of ``gradgen morph`` holds besides an animation.
MORPH_RECORD, STRIP_FILE, FRAMES_FILE = "morph.json", "strip.png", "frames.npz"
DIAGNOSIS = "diagnosis"  # the names of the pictures that ``gradgen diagnose`` draws begin with this
# CHECKPOINT holds what an unfinished run needs to go on. FRAMES lies inside it and holds the codes
# that an animation is drawn from.
CHECKPOINT, FRAMES = "checkpoint", "frames"
# Where the chains of a finished run stand, so that it can be extended.
STATES_FOLDER = "states"
# Runs of more chains are never in memory as a whole: their pictures are written as they come.
STREAMED = 2048
# Such a run keeps its pictures in folders of FOLDER_SIZE pictures each, and the numbers of all
# chains in files.
PICTURES_FOLDER, CHAINS_FOLDER, FOLDER_SIZE = "pictures", "chains", 1000
# These pictures lie beside the samples. A user who names the folder does not mean them.
EXTRA_PICTURES = frozenset({GRID_FILE, TRACE_FILE, ANIMATION_FILE})


def diagnosis_file(class_name: str | None = None) -> str:
    """The name of what ``gradgen diagnose`` draws: of a class, or of a run of a single class."""
    if class_name is None:
        return f"{DIAGNOSIS}.png"
    name = "".join(letter if letter.isalnum() else "-" for letter in class_name.lower())
    return f"{DIAGNOSIS}-{name}.png"
