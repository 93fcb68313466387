#!/usr/bin/env bash
# The README's tour in one go: a ResNet20 loses parameters, is measured, and its layers are listed.
#
# The folder needs resnet20.safetensors, whose source the README names, and
# cifar10-test.safetensors, images and labels as docs/data.md describes them.
set -euo pipefail

alds compress resnet20.safetensors --ratio 0.3 -o small.pt
alds evaluate small.pt --data tensors:cifar10-test.safetensors --baseline resnet20.safetensors
alds compress resnet20.safetensors --ratio 0.5 -o half.pt
alds inspect half.pt
