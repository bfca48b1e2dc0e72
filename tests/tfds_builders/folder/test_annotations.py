import json

import pytest

from lesionkeras.errors import DataError
from tfds_builders.folder.box_image import BoxImage, check_file, find_neighbour
from tfds_builders.folder.coco import read_coco, write_coco
from tfds_builders.folder.voc import read_image_sets, read_voc, write_image_sets, write_voc

IMAGE = BoxImage(
    file="images/a/007.png",
    size_px=(40, 60),
    boxes=((3.25, 4.0, 10.5, 12.75), (0.0, 0.0, 60.0, 40.0)),
    categories=("hcc", "lesion"),
    spacing_mm=(5.0, 0.7, 0.8),
    patient="p & <1>",
    previous="images/a/006.png",
    next="images/b/x.png",
    slice=7,
    split="",
    where="",
)
VOC = """<annotation><folder>any</folder><filename>{name}</filename>
<size><width>60</width><height>40</height><depth>1</depth></size>{objects}</annotation>"""
OBJECT = (
    "<object><name>lesion</name><bndbox><xmin>{}</xmin><ymin>{}</ymin>"
    "<xmax>{}</xmax><ymax>{}</ymax></bndbox></object>"
)


def write_xml(tmp_path, text):
    (tmp_path / "a.xml").write_text(text)
    return tmp_path / "a.xml"


def test_voc_counts_from_one_and_includes_both_ends(tmp_path):
    # One pixel, the first of the image; and columns 3 to 4 (from 1) of rows 2 to 40.
    objects = OBJECT.format(1, 1, 1, 1) + OBJECT.format(3, 2, 4, 40)
    image = read_voc(write_xml(tmp_path, VOC.format(name="007.png", objects=objects)), "images")
    assert image.boxes == ((0, 0, 1, 1), (2, 1, 4, 40))
    assert (image.size_px, image.file, image.categories) == (
        (40, 60), "images/007.png", ("lesion",) * 2,
    )  # fmt: skip
    assert (image.previous, image.next) == ("images/006.png", "images/008.png")
    assert (image.patient, image.spacing_mm, image.slice) == ("", None, 7)


def test_voc_round_trip(tmp_path):
    write_voc(tmp_path / "a.xml", IMAGE)
    text = (tmp_path / "a.xml").read_text()
    assert "<xmin>4.25</xmin>" in text and "<xmax>10.5</xmax>" in text
    back = read_voc(tmp_path / "a.xml")
    assert back == BoxImage(**{**vars(IMAGE), "where": "a.xml"})


def test_image_sets_round_trip(tmp_path):
    pairs = [("a", "train"), ("b", "validation"), ("c", "train"), ("d", "test")]
    write_image_sets(tmp_path, pairs)
    assert (tmp_path / "ImageSets" / "Main" / "val.txt").read_text() == "b\n"
    assert read_image_sets(tmp_path, dict(pairs)) == dict(pairs)


def test_image_sets_of_names_with_spaces_and_of_classes(tmp_path):
    pairs = [("my scan 1", "train"), ("my scan 2", "test")]
    write_image_sets(tmp_path, [*pairs, ("b", "train")])
    splits = read_image_sets(tmp_path, dict(pairs))
    assert [splits[name] for name, _ in pairs] == ["train", "test"]
    (tmp_path / "ImageSets" / "Main" / "val.txt").write_text("c  1\nd -1\n")
    splits = read_image_sets(tmp_path, "cd")
    assert (splits["c"], splits["d"]) == ("validation", "validation")


def test_coco_round_trip(tmp_path):
    plain = BoxImage("k.png", (8, 9), (), (), None, "", "", "", -1, "", "")
    write_coco(tmp_path / "a.json", [IMAGE, plain])
    tree = json.loads((tmp_path / "a.json").read_text())
    assert tree["annotations"][0]["bbox"] == [3.25, 4.0, 7.25, 8.75]
    assert tree["annotations"][0]["area"] == 7.25 * 8.75
    first, second = read_coco(tmp_path / "a.json", "test")
    wanted = {"where": "a.json image 0", "split": "test"}
    assert first == BoxImage(**{**vars(IMAGE), **wanted})
    assert second == BoxImage(**{**vars(plain), "where": "a.json image 1", "split": "test"})


def make_coco(**changes):
    tree = {
        "images": [{"id": 1, "file_name": "a.png", "height": 40, "width": 60}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 2, 3, 4]}],
        "categories": [{"id": 1, "name": "lesion"}],
    }
    for key, value in changes.items():
        tree[key] = [{**tree[key][0], **value}] if isinstance(value, dict) else value
    return tree


def test_coco_leaves_crowds_out_and_clips(tmp_path):
    path = tmp_path / "a.json"
    path.write_text(json.dumps(make_coco(annotations={"iscrowd": 1})))
    assert read_coco(path)[0].boxes == ()
    path.write_text(json.dumps(make_coco(annotations={"bbox": [-2, 30, 10, 20]})))
    assert read_coco(path)[0].boxes == ((0, 30, 8, 40),)


@pytest.mark.parametrize(
    ("tree", "says"),
    [
        (make_coco(images=None), "COCO's list 'images' is missing in a.json"),
        (make_coco(images={"height": 4.5}), "An image's size cannot be used in a.json image 0"),
        (make_coco(images={"file_name": "../a.png"}), "A file name cannot be used"),
        (make_coco(images={"spacing_mm": [1, 2]}), "spacing_mm cannot be used"),
        (make_coco(images={"id": 2}), "A box belongs to no image in a.json annotation 0"),
        (
            make_coco(annotations={"bbox": [1, 2, 0, 4]}),
            "A box is degenerate in a.json image 0 annotation 0",
        ),
        (make_coco(annotations={"bbox": [70, 2, 3, 4]}), "A box lies wholly outside its image"),
        (make_coco(annotations={"bbox": "1234"}), "A bbox cannot be read"),
        (make_coco(annotations={"bbox": [float("nan"), 2, 3, 4]}), "A box is degenerate"),
        (make_coco(images=make_coco()["images"] * 2), "Two images have one id"),
        ([], "COCO's list 'images' is missing"),
    ],
)
def test_coco_errors(tmp_path, tree, says):
    (tmp_path / "a.json").write_text(json.dumps(tree))
    with pytest.raises(DataError, match=says):
        read_coco(tmp_path / "a.json")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("<annotation>", "A file is not XML in a.xml"),
        ("<html/>", "A file is not Pascal VOC in a.xml: found <html>, wanted <annotation>"),
        ('<!DOCTYPE a [<!ENTITY b "c">]><annotation/>', "declares more than boxes"),
        (VOC.format(name="/etc/a.png", objects=""), "A file name cannot be used"),
        (
            VOC.format(name="a.png", objects=OBJECT.format(5, 1, 4, 1)),
            "degenerate in a.xml object 0",
        ),
        (VOC.format(name="a.png", objects=OBJECT.format("x", 1, 4, 1)), "A bndbox cannot be read"),
        (VOC.format(name="a.png", objects="").replace("40", "-4"), "size cannot be used"),
    ],
)
def test_voc_errors(tmp_path, text, says):
    with pytest.raises(DataError, match=says):
        read_voc(write_xml(tmp_path, text))


def test_not_json_and_deep_json_are_refused(tmp_path):
    for text in ("{", "[" * 200_000):
        (tmp_path / "a.json").write_text(text)
        with pytest.raises(DataError, match="A file is not JSON"):
            read_coco(tmp_path / "a.json")


@pytest.mark.parametrize("name", ["", "/a.png", "a/../../b.png", "C:\\a.png", "a\0b", 7])
def test_names_that_leave_the_folder_are_refused(name):
    with pytest.raises(DataError, match="A file name cannot be used"):
        check_file(name, "here")


@pytest.mark.parametrize(
    ("file", "previous", "following"),
    [
        ("a/099.png", "a/098.png", "a/100.png"),
        ("0.png", "", "1.png"),
        ("s2/key.png", "", ""),
        ("7" * 5000 + ".png", "", ""),  # Python reads no number of so many digits
    ],
    ids=["inside", "first", "no number", "too many digits"],
)
def test_neighbours_are_found_by_number(file, previous, following):
    assert (find_neighbour(file, -1), find_neighbour(file, 1)) == (previous, following)
