#!/usr/bin/env bash
echo /tmp/dl/prefix
