# Included by CMake after `project(llama_cpp)`: leaves llama.cpp's `common` library out, a third of the build's time.
#
# llama-cpp-python 0.3.36 forces LLAMA_BUILD_COMMON=ON into the cache, though nothing that the wheel ships links to it. A
# normal variable goes before the cache (CMP0126, CMP0077), so this one wins.
set(LLAMA_BUILD_COMMON OFF)
