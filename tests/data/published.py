"""Small data sets in every published form of annotations.

Each function writes one into a folder and returns `{split: {path: class names}}`.
"""

import json
import os


def touch(root, *names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()


def write(root, name, content):
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    (root / name).write_text(content if isinstance(content, str) else json.dumps(content))


def rows(dataset, root):
    """Returns {path: class names joined by " + "}."""
    sets = dataset.label_sets or [(label,) for label in dataset.labels]
    assert [labels[0] for labels in sets] == list(dataset.labels)
    return {
        os.path.relpath(path, root): " + ".join(dataset.classes[label] for label in labels)
        for path, labels in zip(dataset.paths, sets, strict=True)
    }


KINETICS = "label,youtube_id,time_start,time_end,split\n"


def csv_form(root):
    touch(root, "x/a.mp4", "x/b b.mp4", "y/c.webm", "y/frames/img_00001.jpg")
    write(root, "train.csv", "x/a.mp4,run\ny/frames,walk\n")
    write(root, "val.tsv", "x/b b.mp4\twalk\ny/c.webm\t0\n")
    return {
        "train": {"x/a.mp4": "run", "y/frames": "walk"},
        "val": {"x/b b.mp4": "walk", "y/c.webm": "run"},
    }


def kinetics(root):
    """Videos in one folder and in class folders, with and without underscores; unlabeled tests."""
    touch(
        root,
        "train/air_drumming/-3B32lodo2M_000059_000069.mp4",
        "train/zumba/--aaaaaaaaa_000000_000010.mkv",
        "val/air drumming/_dbcJuKJQNs_000140_000150.mp4",
        "bbbbbbbbbbb_001000_001010.mp4",
    )
    write(
        root,
        "annotations/train.csv",
        KINETICS + '"air drumming",-3B32lodo2M,59,69,train\nzumba,--aaaaaaaaa,0,10,train\n',
    )
    write(
        root,
        "annotations/val.csv",
        KINETICS.replace("split", "split,is_cc")
        + "air drumming,_dbcJuKJQNs,140.0,150.0,val,0\nzumba,bbbbbbbbbbb,1000,1010,val,1\n",
    )
    write(
        root,
        "annotations/test.csv",
        "youtube_id,time_start,time_end,split\nccccccccccc,1,11,test\n",
    )
    return {
        "train": {
            "train/air_drumming/-3B32lodo2M_000059_000069.mp4": "air drumming",
            "train/zumba/--aaaaaaaaa_000000_000010.mkv": "zumba",
        },
        "val": {
            "val/air drumming/_dbcJuKJQNs_000140_000150.mp4": "air drumming",
            "bbbbbbbbbbb_001000_001010.mp4": "zumba",
        },
    }


def kinetics_one_file(root):
    """Kinetics-700 with a column of splits, as folders of frames."""
    touch(
        root, "frames/abcdefghijk_000001_000011/00001.jpg", "frames/lmnopqrstuv_000002_000012/1.png"
    )
    write(
        root,
        "kinetics.csv",
        KINETICS + "b,abcdefghijk,1,11,train\na,lmnopqrstuv,2,12,validate\nb,x,1,2,train\n"
        "a,lmnopqrstuv,2,12,train\n",
    )
    place = "frames/lmnopqrstuv_000002_000012"
    return {
        "train": {"frames/abcdefghijk_000001_000011": "b", place: "a"},
        "val": {place: "a"},
    }


def ucf101(root):
    write(root, "ucfTrainTestlist/classInd.txt", "1 ApplyEyeMakeup\n2 ApplyLipstick\n")
    lists = "ucfTrainTestlist"
    for fold, (one, two) in {1: ("08", "01"), 2: ("01", "08")}.items():
        write(
            root,
            f"{lists}/trainlist0{fold}.txt",
            f"ApplyEyeMakeup/v_ApplyEyeMakeup_g{one}_c01.avi 1\r\n"
            f"ApplyLipstick/v_ApplyLipstick_g{one}_c01.avi 2\r\n",
        )
        write(
            root, f"{lists}/testlist0{fold}.txt", f"ApplyLipstick/v_ApplyLipstick_g{two}_c01.avi\n"
        )
    videos = "UCF-101"
    touch(
        root,
        f"{videos}/ApplyEyeMakeup/v_ApplyEyeMakeup_g08_c01.avi",
        f"{videos}/ApplyLipstick/v_ApplyLipstick_g08_c01.avi",
        f"{videos}/ApplyLipstick/v_ApplyLipstick_g01_c01.avi",
        f"{videos}/ApplyLipstick/v_ApplyLipstick_g01_c01.flow.mkv",
    )
    return {
        "train": {
            f"{videos}/ApplyEyeMakeup/v_ApplyEyeMakeup_g08_c01.avi": "ApplyEyeMakeup",
            f"{videos}/ApplyLipstick/v_ApplyLipstick_g08_c01.avi": "ApplyLipstick",
        },
        "test": {f"{videos}/ApplyLipstick/v_ApplyLipstick_g01_c01.avi": "ApplyLipstick"},
    }


def hmdb51(root):
    """The same name in two classes, and a name that begins with the comment character."""
    lists = "testTrainMulti_7030_splits"
    write(root, f"{lists}/clap_test_split1.txt", "#20_Rhythm_clap.avi 1 \nx_0.avi 2 \nu.avi 0 \n")
    write(root, f"{lists}/pick_test_split1.txt", "x_0.avi 1 \ny.avi 2 \n")
    write(root, f"{lists}/pick_test_split2.txt", "x_0.avi 2 \ny.avi 1 \n")
    touch(root, "hmdb/clap/#20_Rhythm_clap.avi", "hmdb/clap/x_0.avi", "hmdb/clap/u.avi")
    touch(root, "hmdb/pick/x_0.avi", "hmdb/pick/y.avi")
    return {
        "train": {"hmdb/clap/#20_Rhythm_clap.avi": "clap", "hmdb/pick/x_0.avi": "pick"},
        "test": {"hmdb/clap/x_0.avi": "clap", "hmdb/pick/y.avi": "pick"},
    }


def activitynet(root):
    def entry(subset, *labels):
        parts = [{"segment": [1.5 * i, 2.0 * i], "label": label} for i, label in enumerate(labels)]
        return {"duration": 9.0, "subset": subset, "url": "u", "annotations": parts}

    database = {
        "aaaaaaaaaaa": entry("training", "Surfing", "Archery", "Surfing"),
        "-bbbbbbbbbb": entry("training", "Archery"),
        "ccccccccccc": entry("validation", "Archery"),
        "ddddddddddd": entry("testing"),
    }
    write(
        root,
        "activity_net.v1-3.min.json",
        {"database": database, "taxonomy": [], "version": "VERSION 1.3"},
    )
    touch(root, "all/v_aaaaaaaaaaa.mp4", "all/v_-bbbbbbbbbb.mkv", "all/ccccccccccc.mp4")
    return {
        "train": {"all/v_aaaaaaaaaaa.mp4": "Surfing + Archery", "all/v_-bbbbbbbbbb.mkv": "Archery"},
        "val": {"all/ccccccccccc.mp4": "Archery"},
    }


def sports1m(root):
    url = "https://www.youtube.com/watch?v="
    write(root, "labels.txt", "yoga\nabseiling\nkiting\n")
    write(root, "original/train_partition.txt", f"{url}w9ZfIMTK1WE 2,0\n{url}-aaaaaaaaaa 1\n")
    write(root, "original/test_partition.txt", f"{url}bbbbbbbbbb_ 2\n")
    touch(root, "v/w9ZfIMTK1WE.mp4", "v/-aaaaaaaaaa.mp4", "v/bbbbbbbbbb_.webm")
    return {
        "train": {"v/w9ZfIMTK1WE.mp4": "kiting + yoga", "v/-aaaaaaaaaa.mp4": "abseiling"},
        "test": {"v/bbbbbbbbbb_.webm": "kiting"},
    }


def ssv2(root):
    """The order of classes is that of the file, not alphabetical."""

    def entry(number, template):
        return {"id": number, "label": "x", "template": template, "placeholders": ["x"]}

    name = "something-something-v2"
    write(root, f"{name}-labels.json", {"Holding something": "1", "Putting something": "0"})
    train = [entry("10", "Putting [something]"), entry("2", "Holding [something]")]
    write(root, f"{name}-train.json", train)
    write(root, f"{name}-validation.json", [entry("3", "Holding [something]")])
    write(root, f"{name}-test.json", [{"id": "4"}])
    touch(root, *(f"20bn-something-something-v2/{number}.webm" for number in (10, 2, 3, 4)))
    place = "20bn-something-something-v2"
    return {
        "train": {f"{place}/10.webm": "Putting something", f"{place}/2.webm": "Holding something"},
        "val": {f"{place}/3.webm": "Holding something"},
    }


def charades(root):
    head = "id,subject,script,actions,length\n"
    write(
        root,
        "Charades_v1_train.csv",
        head + 'YSKX3,S1,"He, then\nhe",c001 11.90 21.20;c000 0.00 12.60;c001 1.0 2.0,33\n'
        "NONE1,S1,,,12\n",
    )
    write(root, "Charades_v1_test.csv", head + "46GP8,H,x,c000 0 1.5,24\n")
    write(root, "Charades_v1_classes.txt", "c000 Holding some clothes\nc001 Closing a door\n")
    touch(root, "Charades_v1_480/YSKX3.mp4", "Charades_v1_480/46GP8.mp4", "NONE1.mp4")
    return {
        "train": {"Charades_v1_480/YSKX3.mp4": "Closing a door + Holding some clothes"},
        "test": {"Charades_v1_480/46GP8.mp4": "Holding some clothes"},
    }


def actions(root):
    write(root, "train.csv", "path,actions\nx/a.mp4,run; jump\nx/b.mp4,swim\n")
    write(root, "val.csv", "path,actions\nx/a.mp4,jump\n")
    touch(root, "x/a.mp4", "x/b.mp4")
    return {"train": {"x/a.mp4": "run + jump", "x/b.mp4": "swim"}, "val": {"x/a.mp4": "jump"}}


def hara(root):
    for fold, (one, two) in {1: ("training", "validation"), 2: ("validation", "training")}.items():
        database = {
            "v_Yoga_g01": {"subset": one, "annotations": {"label": "Yoga", "segment": [1, 9]}},
            "v_Archery_g02": {"subset": two, "annotations": {"label": "Archery"}},
            "v_Archery_g03": {"subset": one, "annotations": {"label": "Archery"}},
            "v_g04": {"subset": "testing", "annotations": {"segment": [1, 9]}},
        }
        write(root, f"ucf101_0{fold}.json", {"labels": ["Yoga", "Archery"], "database": database})
    touch(root, "jpg/Yoga/v_Yoga_g01/image_00001.jpg", "jpg/Archery/v_Archery_g02/image_00001.jpg")
    touch(root, "jpg/Archery/v_Archery_g03/image_00001.jpg")
    return {
        "train": {"jpg/Yoga/v_Yoga_g01": "Yoga", "jpg/Archery/v_Archery_g03": "Archery"},
        "val": {"jpg/Archery/v_Archery_g02": "Archery"},
    }


def mmaction_frames(root):
    write(root, "k_train_list_rawframes.txt", "some/a 163 1\nsome/b 122 0\n")
    write(root, "k_val_list_rawframes.txt", "other/c 3 1\n")
    write(root, "classes.txt", "zumba\nyoga\n")
    for folder, count in (("train/some/a", 163), ("train/some/b", 122), ("val/other/c", 3)):
        touch(root, *(f"rawframes_{folder}/img_{k:05}.jpg" for k in range(1, count + 1)))
    return {
        "train": {"rawframes_train/some/a": "yoga", "rawframes_train/some/b": "zumba"},
        "val": {"rawframes_val/other/c": "yoga"},
    }


def mmaction_several(root):
    write(root, "train.txt", "a.mp4 2 0\nb.mp4 1\n")
    write(root, "val.txt", "c 163 1 2\n")
    touch(root, "videos/a.mp4", "videos/b.mp4", *(f"rawframes/c/{k}.jpg" for k in range(163)))
    return {
        "train": {"videos/a.mp4": "2 + 0", "videos/b.mp4": "1"},
        "val": {"rawframes/c": "1 + 2"},
    }


def mmaction_json(root):
    write(
        root,
        "anno_train.json",
        [{"filename": "a.mp4", "label": 1}, {"filename": "b.mp4", "label": [0]}],
    )
    write(root, "anno_val.json", [{"frame_dir": "c", "total_frames": 9, "label": 0}])
    touch(root, "videos_train/a.mp4", "videos_train/b.mp4")
    touch(root, *(f"rawframes_val/c/{k}.jpg" for k in range(9)))
    return {
        "train": {"videos_train/a.mp4": "1", "videos_train/b.mp4": "0"},
        "val": {"rawframes_val/c": "0"},
    }


def mmaction_videos(root):
    """The video lists of mmaction2 have the form "csv"."""
    write(root, "k_train_list_videos.txt", "air drumming/a.mp4 1\nyoga/b.mp4 0\n")
    write(root, "k_val_list_videos.txt", "yoga/c.mp4 0\n")
    touch(
        root, "videos_train/air drumming/a.mp4", "videos_train/yoga/b.mp4", "videos_val/yoga/c.mp4"
    )
    return {
        "train": {"videos_train/air drumming/a.mp4": "1", "videos_train/yoga/b.mp4": "0"},
        "val": {"videos_val/yoga/c.mp4": "0"},
    }


def folders(root):
    touch(root, "train/run/b.mp4", "train/run/a.AVI", "train/9/deep/c.mp4", "train/9/f/1.jpg")
    touch(
        root, "validation/9/d.mp4", "train/run/a.flow.mkv", "train/run/note.txt", "train/.x/y.mp4"
    )
    (root / "train" / "empty").mkdir()
    return {
        "train": {
            "train/9/deep/c.mp4": "9",
            "train/9/f": "9",
            "train/run/a.AVI": "run",
            "train/run/b.mp4": "run",
        },
        "val": {"validation/9/d.mp4": "9"},
    }


BUILT = [
    (csv_form, "csv"),
    (kinetics, "kinetics"),
    (kinetics_one_file, "kinetics"),
    (ucf101, "ucf101"),
    (hmdb51, "hmdb51"),
    (activitynet, "activitynet"),
    (sports1m, "sports1m"),
    (ssv2, "ssv2"),
    (charades, "actions"),
    (actions, "actions"),
    (hara, "hara"),
    (mmaction_frames, "mmaction"),
    (mmaction_several, "mmaction"),
    (mmaction_json, "mmaction"),
    (mmaction_videos, "csv"),
    (folders, "folders"),
]
