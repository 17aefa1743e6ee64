//go:build tools

// Package metallb names what `cargo xtask bench control` builds to compare with, so that go.mod and go.sum cover it.
package metallb

import _ "go.universe.tf/metallb/controller"
